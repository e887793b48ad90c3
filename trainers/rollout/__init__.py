"""Answers of the current policy for feedback and rollouts, from this process, a server or vLLM."""
