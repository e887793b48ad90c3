"""Judges of answers: by rules, in this process; by a language model, at an OpenAI-compatible endpoint."""
