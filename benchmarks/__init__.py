"""Benchmarks and drills, by room: what `make bench-NAME` and `make drill-NAME` run. Not part of the wheel."""
