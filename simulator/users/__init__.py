"""Simulated users: they ask a router over HTTP, read its answers and follow links by the built-in world's click model.

They share nothing with a trainer: their opinion of an ad is visible as clicks alone.
"""
