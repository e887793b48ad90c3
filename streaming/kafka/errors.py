"""Kafka's errors in the event log's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors as kafka

from mechanism.errors import ConfigError
from streaming.log import Fenced, LogUnavailable

_FENCED = (
    kafka.CommitFailedError,
    kafka.RebalanceInProgressError,
    kafka.IllegalGenerationError,
    kafka.UnknownMemberIdError,
    kafka.FencedInstanceIdError,
)
_FORBIDDEN = (kafka.AuthorizationError, kafka.SaslAuthenticationFailedError)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raises Fenced, ConfigError or LogUnavailable in place of Kafka's errors."""
    try:
        yield
    except _FENCED as error:
        raise Fenced(f"{doing}: the partition belongs to another member now, read on without it") from error
    except _FORBIDDEN as error:
        raise ConfigError("kafka user", doing, f"{type(error).__name__}: mend credentials or rights") from error
    except (kafka.KafkaError, OSError) as error:
        told = f"{doing}: {type(error).__name__}: {error}"[:300]
        remedy = "see to the brokers, credentials and certificates (the log of `kafka` says more), then try again"
        raise LogUnavailable(f"{told}: {remedy}") from error
