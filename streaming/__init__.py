"""The event log: events and their encoding, the log in SQLite and in Kafka, the workers, and the lake."""
