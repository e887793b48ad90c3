"""Simulated users: they ask a router over HTTP, read its answers and follow links by the built-in world's click model.

Trainers see nothing of them but their clicks.
"""
