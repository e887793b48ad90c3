"""Step 2c of an epoch: optimise the policy on preference groups (DPO), in one process or under DeepSpeed."""
