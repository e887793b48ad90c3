"""Step 2c of an epoch: direct preference optimisation, in one process or launched under DeepSpeed."""
