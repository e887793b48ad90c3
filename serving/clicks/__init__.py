"""Sponsored links: their signed tokens, and which clicks are invalid traffic. Charges are `serving.ledger`'s."""
