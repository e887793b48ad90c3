"""Translation of Kafka's errors to the event log's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors as kafka

from mechanism.errors import ConfigError
from streaming.log import LogUnavailable

_MEMBERS = (
    kafka.CommitFailedError,
    kafka.RebalanceInProgressError,
    kafka.IllegalGenerationError,
    kafka.UnknownMemberIdError,
)
_FORBIDDEN = (kafka.AuthorizationError, kafka.SaslAuthenticationFailedError)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise this project's errors in place of Kafka's. `doing` names the operation in their messages.

    Raises:
        ConfigError: if the brokers refuse the user's credentials or rights.
        LogUnavailable: for all other errors.
    """
    try:
        yield
    except _MEMBERS as error:
        remedy = "another program has joined this consumer group: stop it (workers of version 0.1 join theirs)"
        raise LogUnavailable(f"{doing}: {type(error).__name__}: {remedy}") from error
    except _FORBIDDEN as error:
        raise ConfigError("kafka user", doing, f"{type(error).__name__}: correct its credentials or rights") from error
    except (kafka.KafkaError, OSError) as error:
        message = f"{doing}: {type(error).__name__}: {error}"[:300]
        remedy = "see to the brokers, credentials and certificates (the log of `kafka` says more), then try again"
        raise LogUnavailable(f"{message}: {remedy}") from error
