"""Campaigns: what advertisers book, how it is checked and stored, and what routers read of it."""
