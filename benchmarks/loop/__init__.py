"""The drill of the whole loop: serve, log, retrain, promote."""
