"""Simulated users: they ask a router over HTTP, read its answers and follow links as the built-in world's truth says.

They share nothing with a trainer: what they think of an ad leaves this package as clicks alone.
"""
