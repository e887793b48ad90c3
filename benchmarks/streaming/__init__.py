"""Benchmarks and drills of the event log and its workers."""
