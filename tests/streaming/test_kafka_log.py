"""What only Kafka has: TLS and SCRAM, settings from the environment, eviction, a broker that is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from kafka.record import util

from mechanism.errors import ConfigError
from streaming.kafka.log import KafkaLog
from streaming.kafka.settings import KafkaSettings
from streaming.log import Fenced, LogUnavailable, Partition, Record
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
    consumer.commit()


@pytest.mark.parametrize("wrong", ["password", "ca_file"])
def test_who_cannot_prove_itself_gets_nothing(broker: KafkaBroker, wrong: str) -> None:
    settings = broker.secure(**{wrong: "" if wrong == "ca_file" else "another-password"}, delivery_s=1)
    with pytest.raises((ConfigError, LogUnavailable)) as caught:
        KafkaLog(settings).create([Topic("never")])
    assert "another-password" not in str(caught.value)
    with KafkaAdminClient(**broker.settings().options()) as admin:
        assert "never" not in admin.list_topics()


def test_an_evicted_member_is_fenced(broker: KafkaBroker, side_of: Any, read: Read) -> None:
    """A member that its group gave up must not set the group back."""
    side = side_of(KafkaLog(broker.settings()))
    topic = side.topic(partitions=1)
    side.write(topic, ["a", "b"])
    lost: list[Any] = []
    consumer = side.consumer(topic, on_revoked=lost.extend)
    read(consumer, 2)
    group = f"{side.own}-readers"
    with KafkaAdminClient(**broker.settings().options()) as admin:
        (member,) = admin.describe_groups([group])[group]["members"]
        admin.remove_group_members(group, [MemberToRemove(member["member_id"])])
    with pytest.raises(Fenced):
        commit_until_fenced(consumer)
    assert [r.value for r in read(consumer, 2)] == [b"a", b"b"], "it joins again and reads from what was committed"
    assert lost


def commit_until_fenced(consumer: Any) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        consumer.commit()
        time.sleep(0.1)


def test_a_callback_s_error_reaches_who_polls(broker: KafkaBroker, side_of: Any) -> None:
    side = side_of(KafkaLog(broker.settings()))

    def fail(partitions: Any) -> None:
        raise RuntimeError("no database")

    consumer = side.consumer(side.topic(), on_assigned=fail)
    with pytest.raises(RuntimeError, match="no database"):
        poll_until_assigned(consumer)


def test_a_join_that_ends_between_two_polls_is_not_begun_again(broker: KafkaBroker, side_of: Any) -> None:
    side = side_of(KafkaLog(broker.settings()))
    consumer = side.consumer(side.topic(), "slow")
    end = time.monotonic() + 40
    while not consumer.assignment():
        assert time.monotonic() < end, "not joined"
        consumer.poll(0.002)
        time.sleep(0.2)
    assert consumer._client._coordinator._generation.generation_id == 1, "each join that was made again is one more"


def test_what_was_paused_half_read_comes_when_it_is_resumed(broker: KafkaBroker, side_of: Any) -> None:
    side = side_of(KafkaLog(broker.settings()))
    topic = side.topic(partitions=2)
    side.write(topic, [f"{n:04d}" for n in range(200)])
    consumer = side.consumer(topic, "pausing")
    end, seen = time.monotonic() + 40, set[tuple[int, int]]()

    def poll(count: int, *paused: Partition) -> None:
        while len(seen) < count:
            assert time.monotonic() < end, f"{len(seen)} of {count}"
            consumer.pause(set(paused))  # each time: a rebalance takes it back
            seen.update((record.partition, record.offset) for record in consumer.poll(0.2, 10))

    poll(10)
    first = next(iter(seen))[0]
    other = next(at for place, at in consumer.ends().items() if place.number != first)
    poll(sum(number == first for number, _ in seen) + other, Partition(topic, first))
    for _ in range(3):
        consumer.pause({Partition(topic, first)})
        consumer.poll(0.2, 10)
    poll(200)


def poll_until_assigned(consumer: Any) -> None:
    end = time.monotonic() + 40
    while time.monotonic() < end:
        consumer.poll(0.2)


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
        ({"PROTOCOL": "TLS"}, "give one of PLAINTEXT, SSL"),
        ({"PROTOCOL": "SASL_SSL"}, "user and password"),
        ({"PROTOCOL": "SASL_PLAINTEXT", "MECHANISM": "PLAIN", "USER": "u", "PASSWORD": "p"}, "shows the password"),
        ({"CA_FILE": "/nowhere.pem"}, "a file that can be read"),
        ({"KEY_FILE": "/nowhere.pem"}, "the certificate of the key"),
        ({"REPLICATION": "three"}, "LLM_AUCTION_KAFKA_REPLICATION: 'three': give a whole number"),
        ({"CHECK_HOSTNAME": "maybe"}, "give true or false"),
        ({"PASWORD": "hidden-word"}, "LLM_AUCTION_KAFKA_PASWORD: '': there is no such setting"),
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
