"""Iterative reward-preference optimisation: the loop over epochs, their phases, and the preference pairs."""
