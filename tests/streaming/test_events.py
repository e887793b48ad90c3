"""Event schemas: every stored sample of every version is still read, errors name their place and quote no reader."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError, InputError
from streaming import schemas
from streaming.codec import NEWEST, EventError, decode, encode, topic_of
from streaming.events import (
    CandidateAd,
    Click,
    Interaction,
    Reader,
    ReaderProfile,
    Sampling,
    ShownAd,
    Span,
    click_id_of,
)
from streaming.former_events import ClickedAdV1
from streaming.pseudonyms import pseudonym
from streaming.topics import EVENT_TOPICS, Topic, all_topics, partition_of

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.json"))
AUCTION = "019ab3c4-5d6e-7f80-9123-456789abcdef"
NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
SECRET = "my-private-question"


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "samples" / f"{name}.json").read_text("utf-8"))
    return found


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def click(**fields: Any) -> Click:
    defaults: dict[str, Any] = {
        "occurred_at": NOW,
        "click_id": click_id_of(AUCTION, "A1"),
        "auction_id": AUCTION,
        "ad_id": "A1",
        "campaign_id": "c1",
        "verdict": "valid",
        "price_micros": 1,
        "currency": "EUR",
    }
    return Click(**defaults | fields)


def interaction(**fields: Any) -> Interaction:
    defaults: dict[str, Any] = {
        "occurred_at": NOW,
        "auction_id": AUCTION,
        "outcome": "answered",
        "currency": "EUR",
        "model": "m",
        "model_version": "v",
        "model_digest": "d",
        "sampling": Sampling(seed=1, max_ads=2),
    }
    return Interaction(**defaults | fields)


def candidate(ad_id: str = "A1", **fields: Any) -> CandidateAd:
    defaults: dict[str, Any] = {"campaign_id": "c", "title": "T", "bid_micros": 9, "shown_bid_micros": 7}
    return CandidateAd(ad_id=ad_id, pricing="click", **defaults | fields)


def newest(topic: str) -> int:
    tag = NEWEST[topic].__struct_config__.tag
    assert isinstance(tag, int)
    return tag


NEWEST_SAMPLES = [path for path in SAMPLES if f"-v{newest(path.stem.split('-v')[0])}" in path.stem]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_stored_sample_is_read_whole_and_written_the_same(path: Path) -> None:
    topic = path.stem.split("-v")[0]
    event = decode(topic, path.read_bytes())
    assert type(event) is NEWEST[topic]
    written = json.loads(path.read_bytes())
    if written["version"] == NEWEST[topic].__struct_config__.tag:
        assert json.loads(encode(event)) == written


def test_every_topic_has_samples_of_every_version() -> None:
    newest = {topic: kind.__struct_config__.tag for topic, kind in NEWEST.items()}
    wanted = {f"{t}-v{v}{end}" for t, last in newest.items() for v in range(1, last + 1) for end in ("", "-minimal")}
    assert wanted == {path.stem for path in SAMPLES}
    assert set(newest) == set(EVENT_TOPICS)


@pytest.mark.parametrize("topic", EVENT_TOPICS)
def test_a_newer_producer_s_fields_are_passed_over(topic: str) -> None:
    event = sample(f"{topic}-v{newest(topic)}")
    assert decode(topic, as_bytes(event | {"added_later": {"deep": [1]}})) == decode(topic, as_bytes(event))


@pytest.mark.parametrize("topic", EVENT_TOPICS)
def test_a_newer_version_waits_for_a_newer_consumer(topic: str) -> None:
    last = newest(topic)
    known = ", ".join(map(str, range(1, last + 1)))
    wanted = rf"{topic} event at version: {last + 1}: this program reads version {known}: upgrade it"
    with pytest.raises(EventError, match=wanted):
        decode(topic, as_bytes(sample(f"{topic}-v1") | {"version": last + 1}))


@pytest.mark.parametrize(
    ("topic", "change", "place"),
    [
        ("clicks", {"price_micros": 0.5}, "clicks event version 1 at price_micros: 0.5: expected `int`"),
        ("clicks", {"price_micros": -1}, "clicks event version 1 at price_micros: -1: expected `int` >= 0"),
        ("clicks", {"auction_id": "7"}, "clicks event version 1 at auction_id: '7': expected `str` matching"),
        ("clicks", {"occurred_at": "2026-11-24T10:00:00+02:00"}, "is not UTC"),
        ("clicks", {"occurred_at": "2026-11-24T10:00:00"}, "at occurred_at"),
        ("clicks", {"reason": ""}, "an invalid click has a reason"),
        ("clicks", {"click_id": "x"}, "click_id is not"),
        ("interactions", {"shown": [{"ad_id": "A9", "pricing": "click", "price_micros": 1}]}, "'A9' is not among"),
        ("interactions", {"consent": False}, "reader is given without consent"),
        ("interactions", {"currency": "euro"}, "at currency: 'euro'"),
        ("judgements", {"ads": [{"ad_id": "A", "clicked": True}]}, r"at ads\[0\]"),
    ],
)
def test_what_is_no_event_names_place_value_and_remedy(topic: str, change: dict[str, Any], place: str) -> None:
    with pytest.raises(EventError, match=place):
        decode(topic, as_bytes(sample(f"{topic}-v1") | change))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"a": 1}', b"\xff", b"[" * 100_000, b'{"version": "1"}'])
def test_what_is_no_json_object_with_a_version_is_refused(data: bytes) -> None:
    with pytest.raises(EventError, match="clicks event"):
        decode("clicks", data)


def test_an_unknown_topic_is_refused() -> None:
    with pytest.raises(EventError, match="topic: 'klicks': give one of interactions, clicks"):
        decode("klicks", b"{}")


@given(
    st.sampled_from(EVENT_TOPICS),
    st.data(),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_a_broken_event_is_an_event_or_an_event_error(topic: str, data: st.DataObject, value: Any) -> None:
    event = sample(f"{topic}-v1")
    place = data.draw(st.sampled_from(sorted(event)))
    try:
        event = decode(topic, as_bytes(event | {place: value}))
    except EventError:
        return
    assert decode(topic, encode(event)) == event


@given(st.data())
def test_no_error_quotes_the_reader(data: st.DataObject) -> None:
    event = sample("interactions-v1")
    reader = event["reader"]
    place = data.draw(st.sampled_from(sorted(reader)))
    reader[place] = data.draw(st.sampled_from([[SECRET], [[SECRET, 1, 2]], 7, {"age": [SECRET]}]))
    with pytest.raises(EventError) as caught:
        decode("interactions", as_bytes(event))
    assert SECRET not in str(caught.value)


@given(
    price=st.integers(0, 10**13),
    reason=st.text(st.characters(codec="utf-8"), max_size=20),
    ad_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=64),
    moment=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_a_click_comes_back_to_the_micro(price: int, reason: str, ad_id: str, moment: datetime) -> None:
    verdict = "invalid" if reason else "valid"
    click_id = click_id_of(AUCTION, ad_id)
    event = click(
        price_micros=price, reason=reason, verdict=verdict, ad_id=ad_id, click_id=click_id, occurred_at=moment
    )
    again = decode("clicks", encode(event))
    assert again == event
    assert isinstance(again, Click)
    assert type(again.price_micros) is int


def test_what_a_constructor_lets_pass_is_refused_when_it_is_written() -> None:
    with pytest.raises(EventError, match="at price_micros"):
        encode(click(price_micros=0.1))
    with pytest.raises(EventError, match="at currency"):
        encode(click(currency="Euro"))
    with pytest.raises(EventError):
        encode(click(price_micros=2**70))
    with pytest.raises(ValueError, match="no number"):
        interaction(logprob=float("nan"))
    with pytest.raises(ValueError, match="is not UTC"):
        click(occurred_at=NOW.astimezone(timezone(timedelta(hours=2))))
    with pytest.raises(EventError, match=r"at reader\.user_id: '<str>'"):
        encode(interaction(consent=True, reader=Reader(user_id="jane@example.org", query="q", raw="", text="")))


def test_an_interaction_is_a_trainer_s_sample() -> None:
    """What the reward update, the judge and the off-policy estimate take: context, answer, propensities."""
    event = decode("interactions", as_bytes(sample("interactions-v1")))
    assert isinstance(event, Interaction)
    context, generation = event.context(), event.generation()
    assert context is not None
    assert generation is not None
    assert [c.ad.id for c in context.candidates] == ["A1", "A2", "A3"]
    assert context.bids() == {"A1": 200_000, "A2": 72_000, "A3": 32_000}
    assert event.bids() == {"A1": 250_000, "A2": 90_000, "A3": 40_000}
    assert context.profile is not None
    assert context.profile.id == "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    assert context.profile.interests == ("hiking", "photography")
    assert context.turns[0] == ("user", "Hello.")
    assert generation.answer.shown() == ("A1", "A2")
    titles = {c.ad_id: c.title for c in event.candidates}
    for insertion in generation.answer.insertions:
        assert generation.answer.text[insertion.start : insertion.end] == titles[insertion.ad_id]
    assert generation.choices[0].probabilities["A1"] == 0.75
    assert generation.logprob == -41.5


def test_without_consent_there_is_no_sample_and_no_text() -> None:
    event = interaction(candidates=(candidate(),), shown=(ShownAd(ad_id="A1", pricing="click", price_micros=9),))
    assert event.context() is None
    assert event.generation() is None
    with pytest.raises(ValueError, match="without consent"):
        interaction(reader=Reader(query="q", raw="", text=""))


def test_contradictions_are_refused() -> None:
    shown = ShownAd(ad_id="A1", pricing="click", price_micros=9)
    with pytest.raises(ValueError, match="stands twice"):
        interaction(candidates=(candidate(), candidate()))
    with pytest.raises(ValueError, match="shown twice"):
        interaction(candidates=(candidate(),), shown=(shown, shown))
    reader = Reader(query="q", raw="", text="short", spans=(Span("A1", 0, 99),), profile=ReaderProfile(age="30"))
    with pytest.raises(ValueError, match="does not lie within the text"):
        interaction(candidates=(candidate(),), shown=(shown,), consent=True, reader=reader)
    with pytest.raises(ValueError, match="if and only if"):
        ClickedAdV1(ad_id="A", clicked=False, clicked_after_s=1.0)


def test_copies_of_an_event_have_one_id_and_different_events_have_not() -> None:
    assert click().event_id == click(price_micros=5).event_id == f"{AUCTION}:A1"
    assert click(verdict="invalid", reason="bot").event_id != click().event_id
    assert interaction().event_id == interaction().key == AUCTION
    assert topic_of(click()) == "clicks"


def test_the_published_schemas_are_those_of_the_structs() -> None:
    """Where this fails: `python -m streaming.schemas` rewrites them."""
    assert {path.name: path.read_text("utf-8") for path in schemas.FOLDER.glob("*.json")} == schemas.schemas()


def test_schemas_are_written_and_stale_ones_removed(tmp_path: Path) -> None:
    (tmp_path / "gone.json").write_text("{}")
    assert {path.name for path in schemas.write(tmp_path)} == {f"{topic}.json" for topic in EVENT_TOPICS}
    assert not (tmp_path / "gone.json").exists()


@pytest.mark.parametrize("path", NEWEST_SAMPLES, ids=lambda path: path.stem)
def test_the_published_schemas_admit_the_samples_and_no_broken_ones(path: Path) -> None:
    topic = path.stem.split("-v")[0]
    validator = jsonschema_rs.validator_for(json.loads((schemas.FOLDER / f"{topic}.json").read_text("utf-8")))
    event = json.loads(path.read_bytes())
    validator.validate(event)
    assert not validator.is_valid(event | {"version": newest(topic) + 1})
    assert not validator.is_valid({name: value for name, value in event.items() if name != "version"})
    assert not validator.is_valid(event | {"occurred_at": 5})


@given(st.text(min_size=1), st.text(min_size=1), st.binary(min_size=32, max_size=64))
def test_a_pseudonym_is_steady_and_takes_its_key(user: str, other: str, key: bytes) -> None:
    made = pseudonym(user, key)
    assert made == pseudonym(user, key)
    assert (made == pseudonym(other, key)) == (user == other)
    assert made != pseudonym(user, key[::-1] + b"x" if len(key) < 64 else bytes(64))
    encode(interaction(consent=True, reader=Reader(user_id=made, query="", raw="", text="")))


def test_nobody_has_no_pseudonym_and_a_short_key_is_refused() -> None:
    assert pseudonym("", bytes(32)) == ""
    with pytest.raises(ConfigError, match="32 random bytes"):
        pseudonym("u", b"short")


def test_topics_are_co_partitioned_and_each_has_dead_letters() -> None:
    topics = {topic.name: topic for topic in all_topics(6)}
    assert {topics[name].partitions for name in EVENT_TOPICS} == {6}
    for name in EVENT_TOPICS:
        assert topics[name + ".dlq"] == topics[name].dlq
    for name, fault in (("Bad", "topic"), ("a/b", "topic"), ("", "topic")):
        with pytest.raises(ConfigError, match=fault):
            Topic(name)
    with pytest.raises(ConfigError, match="partitions"):
        Topic("a", 0)
    with pytest.raises(InputError, match="retention"):
        Topic("a", 1, timedelta(0))


@given(st.binary(), st.integers(1, 50))
def test_a_key_has_one_partition(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_partitions_of_keys_never_change() -> None:
    """Another rule would tear apart what stands in a log already."""
    assert [partition_of(key, 7) for key in (b"", b"a", b"019ab3c4")] == [0, 4, 3]
