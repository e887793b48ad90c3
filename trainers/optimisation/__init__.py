"""Steps 2b and 2c of an epoch: build preference pairs, and optimise the policy on them (DPO, DeepSpeed)."""
