"""Logged traffic as the feedback of a run: what served policies wrote and what users clicked, read from the shards."""
