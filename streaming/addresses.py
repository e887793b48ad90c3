"""The event log at an address: a folder of this machine, or Kafka by its settings in the environment."""

from __future__ import annotations

from pathlib import Path

from mechanism.errors import ConfigError
from streaming.log import EventLog

KAFKA = "kafka"


def open_log(address: str) -> EventLog:
    """Open the log at an address: "kafka" (by `streaming.kafka.settings`), or a folder for the embedded log.

    The errors of Kafka's settings (ConfigError) and of a folder in the format of version 0.1 (InputError) propagate.

    Raises:
        ConfigError: if the address is empty.
    """
    if not address:
        raise ConfigError("event log", address, f"give a folder, or {KAFKA!r}")
    if address == KAFKA:
        from streaming.kafka.log import KafkaLog
        from streaming.kafka.settings import KafkaSettings

        return KafkaLog(KafkaSettings.from_environment())
    from streaming.embedded import EmbeddedLog

    return EmbeddedLog(Path(address))
