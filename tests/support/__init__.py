"""Servers and clusters that tests and benchmarks start: Kafka, PostgreSQL, an object store, Kubernetes."""
