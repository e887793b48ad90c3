"""Sponsored links: their signed tokens, and the decision whether a click on one is charged."""
