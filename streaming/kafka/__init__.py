"""The event log in Apache Kafka, by kafka-python. `streaming.kafka.settings` can be imported without kafka-python."""
