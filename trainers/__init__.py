"""Training: configuration, reward model, preference optimisation, the IRPO loop, evaluation, gates, retraining."""
