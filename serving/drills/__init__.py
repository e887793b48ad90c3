"""Long trials and measurements of the router, each a command: `python -m serving.drills.NAME`."""
