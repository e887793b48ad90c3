"""The reconciler of IRPOJob: from a job and what is seen of its pods to what to do next."""
