"""Benchmarks of the rules; each writes its figures to `build/bench`."""
