"""Reports and curves over what the ledger counted."""
