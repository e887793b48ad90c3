"""Iterative reward-preference optimisation: the loop over epochs and phases."""
