"""Grading of answers: by rules on words, or by a user model behind an OpenAI-compatible endpoint."""
