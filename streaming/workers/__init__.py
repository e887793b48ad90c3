"""The workers, which process the log's records: one run loop, and a task for each worker."""
