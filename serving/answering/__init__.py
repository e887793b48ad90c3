"""One answer from request to record."""
