"""Grades of answers: by rules, or by a user model behind any OpenAI-compatible endpoint, with budget and cache."""
