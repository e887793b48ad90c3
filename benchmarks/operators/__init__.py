"""Drills and benchmarks of the operator; each writes its figures to `build/bench`."""
