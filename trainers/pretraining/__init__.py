"""How the shipped base model `tiny` is made."""
