"""Logged traffic as the feedback of a run: answers of served policies and their clicks, read from the lake."""
