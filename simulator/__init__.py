"""The simulated world: ads, users and queries, true click probabilities, importers of real data, users over HTTP."""
