"""Which event log a program means: a folder of this machine, or Kafka by its settings in the environment."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mechanism.errors import ConfigError, InputError
from streaming.log import EventLog
from streaming.topics import Topic

KAFKA = "kafka"


def open_log(address: str) -> EventLog:
    """The log at an address: "kafka" (`streaming.kafka.settings` says which), or a folder for the embedded one. Raises
    ConfigError."""
    if not address:
        raise ConfigError("event log", address, f"give a folder, or {KAFKA!r}")
    if address == KAFKA:
        from streaming.kafka.log import KafkaLog
        from streaming.kafka.settings import KafkaSettings

        return KafkaLog(KafkaSettings.from_environment())
    from streaming.embedded import EmbeddedLog

    return EmbeddedLog(Path(address))


def ensure(log: EventLog, topics: Iterable[Topic]) -> None:
    """Creates the topics that are not there, and leaves those that are as they are, whatever their partitions. Raises
    LogUnavailable."""
    for topic in topics:
        with suppress(InputError):
            log.create([topic])
