"""Kafka's address, credentials and delivery settings, from arguments or the environment (`LLM_AUCTION_KAFKA_*`).

Secrets appear neither in `repr` nor in errors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mechanism.errors import ConfigError

PREFIX = "LLM_AUCTION_KAFKA_"
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
COMPRESSIONS = ("zstd", "gzip", "none")


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The settings of a connection to Kafka.

    servers            comma-separated list of host:port
    ca_file            authorities that verify the brokers (PEM); empty for those of the system
    certificate_file   the client's certificate, with its `key_file`, for brokers that require one
    compression        compression of appended batches: zstd, gzip or none
    replication        copies of a new topic; 0 for three, or one per broker if there are fewer; -1 for the brokers'
                       default
    delivery_s         seconds after which an append fails

    Raises:
        ConfigError: if a setting is not valid.
    """

    servers: str
    protocol: str = "PLAINTEXT"
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: str = field(default="", repr=False)
    check_hostname: bool = True
    mechanism: str = "SCRAM-SHA-512"
    user: str = ""
    password: str = field(default="", repr=False)
    compression: str = "zstd"
    replication: int = 0
    delivery_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.servers or any(not server.strip() for server in self.servers.split(",")):
            raise ConfigError("kafka servers", self.servers, "give host:port, several with commas between")
        if self.protocol not in PROTOCOLS:
            raise ConfigError("kafka protocol", self.protocol, f"give one of {', '.join(PROTOCOLS)}")
        if self.compression not in COMPRESSIONS:
            raise ConfigError("kafka compression", self.compression, f"give one of {', '.join(COMPRESSIONS)}")
        if self.mechanism not in MECHANISMS:
            raise ConfigError("kafka mechanism", self.mechanism, f"give one of {', '.join(MECHANISMS)}")
        if self.sasl and not (self.user and self.password):
            given = "<set>" if self.user else ""
            raise ConfigError(f"kafka user and password for {self.protocol}", given, "give both")
        if self.mechanism == "PLAIN" and self.protocol == "SASL_PLAINTEXT":
            raise ConfigError("kafka mechanism", self.mechanism, "PLAIN shows the password: use SASL_SSL, or SCRAM")
        if self.key_file and not self.certificate_file:
            raise ConfigError("kafka certificate_file", "", "give the certificate of the key")
        for name in ("ca_file", "certificate_file", "key_file"):
            path = getattr(self, name)
            if path and not os.access(path, os.R_OK):
                raise ConfigError(f"kafka {name}", path, "give a file that can be read")
        if self.delivery_s < 1:
            raise ConfigError("kafka delivery_s", self.delivery_s, "give a second or more")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> KafkaSettings:
        """Read the settings from LLM_AUCTION_KAFKA_SERVERS and so on: PREFIX and the field's name in capitals.

        Raises:
            ConfigError: if a variable with PREFIX names no field, or the servers are missing.
        """
        variables = {PREFIX + name.upper(): (name, kind) for name, kind in cls.__annotations__.items()}
        given = {name: environment[name] for name in environment if name.startswith(PREFIX)}
        if unknown := sorted(given.keys() - variables):
            raise ConfigError(unknown[0], "", f"unknown setting; there are {', '.join(variables)}")
        if PREFIX + "SERVERS" not in given:
            raise ConfigError(PREFIX + "SERVERS", "", "give host:port, several with commas between")
        return cls(**{variables[v][0]: _parsed(v, text, variables[v][1]) for v, text in given.items()})

    @property
    def sasl(self) -> bool:
        """Whether the client authenticates by SASL."""
        return self.protocol.startswith("SASL_")

    def options(self) -> dict[str, Any]:
        """Return the options of kafka-python that producers, consumers and administrators share."""
        found: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in self.servers.split(",")],
            "security_protocol": self.protocol,
            "client_id": "llm-auction",
            "request_timeout_ms": 10_000,
            "reconnect_backoff_max_ms": 1_000,
            "bootstrap_timeout_ms": round(min(5.0, self.delivery_s) * 1000),
        }
        if self.protocol.endswith("SSL"):
            found |= {
                "ssl_cafile": self.ca_file or None,
                "ssl_certfile": self.certificate_file or None,
                "ssl_keyfile": self.key_file or None,
                "ssl_password": self.key_password or None,
                "ssl_check_hostname": self.check_hostname,
            }
        if self.sasl:
            found |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.user,
                "sasl_plain_password": self.password,
            }
        return found


def _parsed(variable: str, text: str, kind: str) -> Any:
    wanted, remedy = _KINDS[kind]
    try:
        return msgspec.convert(text, wanted, strict=False)
    except msgspec.ValidationError:
        raise ConfigError(variable, text, f"give {remedy}") from None  # no secret: every text is a str


_KINDS: dict[str, tuple[type, str]] = {
    "str": (str, "a text"),
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
}
