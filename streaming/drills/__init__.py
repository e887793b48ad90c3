"""Long trials and measurements of the event log, each a command, and the broker that they and the tests run against."""
