"""The event log in Apache Kafka, by kafka-python. `streaming.kafka.settings` is read without it."""
