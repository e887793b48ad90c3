"""Reports and curves over the ledger's counters."""
