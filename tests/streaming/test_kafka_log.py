"""What only Kafka has: TLS and SCRAM, compression, groups, settings from the environment, an unreachable broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.record import util

from mechanism.errors import ConfigError
from streaming.kafka.log import KafkaLog
from streaming.kafka.settings import KafkaSettings
from streaming.log import LogUnavailable, Member, Partition, Record
from streaming.topics import Topic
from tests.support.kafka.broker import KafkaBroker

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see conftest.swept
Read = Callable[..., list[Record]]


def test_tls_and_scram_carry_records_both_ways(broker: KafkaBroker, side_of: Any, read: Read) -> None:
    side = side_of(KafkaLog(broker.secure()))
    topic = side.topic()
    side.write(topic, ["a", "b", "c"])
    consumer = side.consumer(topic)
    assert sorted(r.value for r in read(consumer, 3)) == [b"a", b"b", b"c"]
    consumer.commit(consumer.ends())


@pytest.mark.parametrize("wrong", ["password", "ca_file"])
def test_who_cannot_prove_itself_gets_nothing(broker: KafkaBroker, wrong: str) -> None:
    settings = broker.secure(**{wrong: "" if wrong == "ca_file" else "another-password"}, delivery_s=1)
    with pytest.raises((ConfigError, LogUnavailable)) as caught:
        KafkaLog(settings).create([Topic("never")])
    assert "another-password" not in str(caught.value)
    with KafkaAdminClient(**broker.settings().options()) as admin:
        assert "never" not in admin.list_topics()


def test_offsets_are_committed_without_joining_the_group(broker: KafkaBroker, side_of: Any, read: Read) -> None:
    """So lag tools see them, and no coordinator can take a partition away."""
    side = side_of(KafkaLog(broker.settings()))
    topic = side.topic(partitions=2)
    side.write(topic, ["a", "b", "c"])
    group = f"{side.own}-readers"
    first, second = (side.consumer(topic, member=Member(i, 2)) for i in range(2))
    for consumer in (first, second):
        consumer.commit(consumer.ends())
    with KafkaAdminClient(**broker.settings().options()) as admin:
        assert admin.describe_groups([group])[group]["members"] == []
        offsets = admin.list_group_offsets(group)
    assert sum(found.offset for found in offsets[group].values()) == 3


def test_a_group_that_others_have_joined_cannot_be_committed_to(broker: KafkaBroker, side_of: Any) -> None:
    """As while workers of version 0.1 run beside: the commit fails with its reason, reading goes on."""
    side = side_of(KafkaLog(broker.settings()))
    topic = side.topic(partitions=1)
    joined = KafkaConsumer(topic, group_id=f"{side.own}-readers", **broker.settings().options())
    end = time.monotonic() + 40
    while not joined.assignment():
        assert time.monotonic() < end, "not joined"
        joined.poll(timeout_ms=100)
    consumer = side.consumer(topic)
    with pytest.raises(LogUnavailable, match="another program has joined this consumer group"):
        consumer.commit({Partition(topic, 0): 1})
    joined.close()
    consumer.commit({Partition(topic, 0): 1})


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_records_are_compressed(broker: KafkaBroker, side_of: Any, read: Read, compression: str) -> None:
    side = side_of(KafkaLog(broker.settings(compression=compression)))
    topic, values = side.topic(partitions=1), [f"{n:05d}" * 200 for n in range(100)]
    side.write(topic, values)
    assert [r.value for r in read(side.consumer(topic), 100)] == [value.encode() for value in values]
    size = sum(path.stat().st_size for path in broker.folder.glob(f"*/data/{topic}-0/*.log"))
    assert (size < 50_000) == (compression != "none")


def test_no_broker_is_said_in_time(tmp_path: Path) -> None:
    settings = KafkaSettings("127.0.0.1:1", delivery_s=1)
    with pytest.raises(LogUnavailable, match="see to the brokers"):
        KafkaLog(settings).create([Topic("things")])


def test_checksums_are_computed_in_c() -> None:
    """The same sums in Python take most of a consumer's time."""
    assert util.crc32c_c is not None


def test_no_log_level_shows_records() -> None:
    """At DEBUG the client would write keys and values."""
    assert not logging.getLogger("kafka.producer.kafka").isEnabledFor(logging.DEBUG)


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("")
    settings = KafkaSettings.from_environment(
        {
            "LLM_AUCTION_KAFKA_SERVERS": "a:9093, b:9093",
            "LLM_AUCTION_KAFKA_PROTOCOL": "SASL_SSL",
            "LLM_AUCTION_KAFKA_CA_FILE": str(authority),
            "LLM_AUCTION_KAFKA_USER": "router",
            "LLM_AUCTION_KAFKA_PASSWORD": "hidden-word",
            "LLM_AUCTION_KAFKA_CHECK_HOSTNAME": "false",
            "LLM_AUCTION_KAFKA_DELIVERY_S": "5",
            "PATH": "/bin",
        }
    )
    options = settings.options()
    assert options["bootstrap_servers"] == ["a:9093", "b:9093"]
    assert (options["ssl_cafile"], options["ssl_check_hostname"]) == (str(authority), False)
    assert (options["sasl_mechanism"], options["sasl_plain_password"]) == ("SCRAM-SHA-512", "hidden-word")
    assert settings.delivery_s == 5
    assert "hidden-word" not in repr(settings)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"SERVERS": ""}, "kafka servers"),
        ({"COMPRESSION": "lzma"}, "give one of zstd, gzip, none"),
        ({"PROTOCOL": "TLS"}, "give one of PLAINTEXT, SSL"),
        ({"PROTOCOL": "SASL_SSL"}, "user and password"),
        ({"PROTOCOL": "SASL_PLAINTEXT", "MECHANISM": "PLAIN", "USER": "u", "PASSWORD": "p"}, "shows the password"),
        ({"CA_FILE": "/nowhere.pem"}, "a file that can be read"),
        ({"KEY_FILE": "/nowhere.pem"}, "the certificate of the key"),
        ({"REPLICATION": "three"}, "LLM_AUCTION_KAFKA_REPLICATION: 'three': give a whole number"),
        ({"CHECK_HOSTNAME": "maybe"}, "give true or false"),
        ({"PASWORD": "hidden-word"}, "LLM_AUCTION_KAFKA_PASWORD: '': unknown setting"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, str], fault: str) -> None:
    environment = {"SERVERS": "a:1"} | changes
    with pytest.raises(ConfigError, match=fault) as caught:
        KafkaSettings.from_environment({f"LLM_AUCTION_KAFKA_{name}": told for name, told in environment.items()})
    assert "hidden-word" not in str(caught.value)


def test_without_servers_there_is_no_kafka() -> None:
    with pytest.raises(ConfigError, match="LLM_AUCTION_KAFKA_SERVERS"):
        KafkaSettings.from_environment({})
