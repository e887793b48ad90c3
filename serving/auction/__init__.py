"""The auction before the prompt: eligibility, retrieval, pacing, frequency caps, separation and ad load."""
