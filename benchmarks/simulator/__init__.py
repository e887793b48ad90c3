"""Benchmarks of the built-in world."""
