"""What reads the log: the run loop, and a task for each worker."""
