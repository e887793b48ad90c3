"""Benchmarks and drills of the router and its ledger."""
