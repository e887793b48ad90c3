"""What training leaves on disk or in an object store: run directories, the model registry, sampled answers."""
