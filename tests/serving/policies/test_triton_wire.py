"""The interface between router and Triton: round trips, and refusals that name the field."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import AuctionError, InputError, PolicyError
from mechanism.types import Ad, Candidate, Context, MarkerChoice, Profile
from serving.policies.protocol import OWN_LIMITS, AdapterAbsent, AnswerLimits, Completed
from serving.policies.triton.wire import (
    PolicyRequest,
    QueueFull,
    decode_completed,
    decode_error,
    decode_request,
    encode_completed,
    encode_error,
    encode_request,
)

text = st.text(st.characters(codec="utf-8"), max_size=20)
ads = st.builds(Ad, text, text, text, text, text, text)
profiles = st.builds(Profile, text, text, text, text, text, st.lists(text).map(tuple), st.lists(text).map(tuple))
contexts = st.builds(
    Context,
    text,
    text,
    st.lists(st.builds(Candidate, ads, st.integers(0, 2**62)), max_size=4).map(tuple),
    st.none() | profiles,
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), text), max_size=3).map(tuple),
    text,
)
chances = st.floats(0, 1)
completed = st.builds(
    Completed,
    st.lists(st.builds(MarkerChoice, text, st.dictionaries(text, chances), st.booleans())).map(tuple),
    st.floats(-1e6, 0),
    st.integers(0, 9999),
    st.integers(0, 9999),
    st.booleans(),
    text,
)


@given(contexts, st.integers(0, 2**63 - 1), st.integers(0, 9))
def test_a_request_arrives_as_it_was_sent(context: Context, seed: int, max_ads: int) -> None:
    assert decode_request(encode_request(context, seed, max_ads)) == PolicyRequest(context, seed, max_ads)


@given(st.none() | st.integers(1, 99), st.none() | st.floats(0, 2))
def test_limits_are_sent_where_a_request_has_any(max_tokens: int | None, temperature: float | None) -> None:
    limits = AnswerLimits(max_tokens, temperature)
    sent = encode_request(Context("c", "x", ()), 1, 2, limits)
    assert decode_request(sent).limits == limits
    assert (b"asked" in sent) == (limits != OWN_LIMITS)  # servers that do not know the field refuse it


def test_an_adapter_is_sent_where_the_version_is_one() -> None:
    sent = encode_request(Context("c", "x", ()), 1, 2, adapter="a" * 64)
    assert decode_request(sent).adapter == "a" * 64
    assert b"adapter" not in encode_request(Context("c", "x", ()), 1, 2)
    with pytest.raises(InputError, match="adapter"):
        decode_request(sent.replace(b"a" * 64, b"../weights"))


@given(completed)
def test_the_end_of_an_answer_arrives_as_it_was_sent(done: Completed) -> None:
    assert decode_completed(encode_completed(done)) == done


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"max_ads": -1}, "max_ads"),
        ({"version": 2}, "version"),
        ({"seed": None}, "seed"),
        ({"context": {}}, "context"),
        ({"mood": 1}, "mood"),
    ],
)
def test_a_bad_request_names_the_field(change: dict[str, object], named: str) -> None:
    good = msgspec.json.decode(encode_request(Context("c", "a private question", ()), 1, 1))
    with pytest.raises(InputError, match=named) as caught:
        decode_request(msgspec.json.encode(good | change))
    assert "private" not in str(caught.value)


@given(st.binary(max_size=60))
def test_garbage_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError):
        decode_request(data)


def test_a_negative_bid_is_an_input_error() -> None:
    data = encode_request(Context("c", "q", (Candidate(Ad("A1", "T", "", "B"), 7),)), 1, 1)
    with pytest.raises(InputError, match="bid of ad"):
        decode_request(data.replace(b'"bid":7', b'"bid":-7'))


@pytest.mark.parametrize(
    "error",
    [
        InputError("messages", "3000 tokens", "shorten them"),
        QueueFull("4 run"),
        AdapterAbsent("a"),
        PolicyError("broken weights"),
    ],
)
def test_an_error_keeps_its_kind_and_its_text(error: AuctionError) -> None:
    decoded = decode_error("in ensemble 'x': " + encode_error(error))
    assert type(decoded) is type(error)
    assert str(decoded) == str(error)


@given(text)
def test_tritons_own_messages_are_not_decoded(message: str) -> None:
    assert decode_error(message) is None
