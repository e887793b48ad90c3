"""Benchmarks of training and of the gates."""
