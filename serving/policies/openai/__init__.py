"""A policy behind any OpenAI-compatible server."""
