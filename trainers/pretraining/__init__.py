"""Pretraining of the shipped base model `tiny`, and the supervised training that the warm start uses."""
