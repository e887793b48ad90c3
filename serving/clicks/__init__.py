"""Links, click tokens and the rules of invalid traffic."""
