"""Frequency caps: never more impressions per reader and window than promised."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.auction.frequency import HEADROOM, FrequencyCounter
from serving.campaigns.types import Campaign, FrequencyCap

KEY = b"a key of the tests, random"
THEN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3_600


def no_campaign(campaign_id: str) -> Campaign | None:
    return None


def campaign(campaign_id: str = "C1", campaigns: Any = (), creatives: Any = ()) -> Campaign:
    caps = [tuple(FrequencyCap(impressions=n, hours=h) for n, h in given) for given in (campaigns, creatives)]
    return Campaign(
        id=campaign_id,
        advertiser_id="a",
        name="n",
        category="c",
        bid_micros=1,
        currency="EUR",
        starts_at=THEN,
        campaign_caps=caps[0],
        creative_caps=caps[1],
        created_at=THEN,
        updated_at=THEN,
    )


limits = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), max_size=2)
readers, pauses = st.sampled_from(["ann", "bob"]), st.integers(0, 9 * HOUR)
shows = st.lists(
    st.tuples(readers, st.sampled_from(["C1", "C2"]), st.sampled_from("xy"), pauses),
    max_size=40,
)


def reached(caps: tuple[FrequencyCap, ...], log: list[tuple[Any, ...]], key: tuple[str, int, str], now: float) -> bool:
    who, place, name = key
    mine = [entry[3] for entry in log if entry[0] == who and entry[place] == name]
    return any(sum(t > now - cap.hours * HOUR for t in mine) >= cap.impressions for cap in caps)


@given(limits, limits, limits, shows)
def test_a_cap_is_reached_exactly_when_its_window_holds_that_many_impressions(
    one: Any, two: Any, per_creative: Any, shown: list[tuple[str, str, str, int]]
) -> None:
    booked = {"C1": campaign("C1", one, per_creative), "C2": campaign("C2", two)}
    counter, now, log = FrequencyCounter(KEY), 0.0, []
    for reader, campaign_id, creative, later in shown:
        now += later
        counter.record(reader, booked[campaign_id], campaign_id + creative, now)
        log.append((reader, campaign_id, campaign_id + creative, now))
        for who in ("ann", "bob", "eve"):
            found = counter.reached_caps(who, True, now, booked.get)
            assert found.countable
            assert found.campaigns == {c for c in booked if reached(booked[c].campaign_caps, log, (who, 1, c), now)}
            creatives = {c + x for c in booked for x in "xy"}
            assert found.creatives == {
                x for x in creatives if reached(booked[x[:2]].creative_caps, log, (who, 2, x), now)
            }


def test_no_reader_is_counted_without_consent_or_an_id() -> None:
    counter = FrequencyCounter(KEY)
    assert not counter.reached_caps("ann", False, 0, no_campaign).countable
    assert not counter.reached_caps(None, True, 0, no_campaign).countable
    assert not counter.reached_caps("", True, 0, no_campaign).countable
    assert counter.reached_caps("ann", True, 0, no_campaign).countable


def test_no_reader_is_countable_while_the_memory_is_full() -> None:
    counter, limited = FrequencyCounter(KEY, capacity=HEADROOM + 10), campaign(campaigns=[(3, 1)])
    for i in range(1_000):
        counter.record(f"reader {i}", limited, "x", at=float(i) / 1_000)
    assert len(counter) == HEADROOM + 10
    assert not counter.reached_caps("reader 1", True, 2, {"C1": limited}.get).countable
    assert counter.reached_caps("reader 1", True, HOUR + 2, {"C1": limited}.get).countable
    assert len(counter) == 0


def test_a_window_ends_to_the_second() -> None:
    counter, limited = FrequencyCounter(KEY), campaign(campaigns=[(1, 2)])
    counter.record("ann", limited, "x", 100)
    assert counter.reached_caps("ann", True, 100 + 2 * HOUR - 1, {"C1": limited}.get).campaigns == {"C1"}
    assert counter.reached_caps("ann", True, 100 + 2 * HOUR, {"C1": limited}.get).campaigns == frozenset()


def test_only_capped_campaigns_are_counted_and_a_reader_can_be_forgotten() -> None:
    counter = FrequencyCounter(KEY)
    counter.record("ann", campaign(), "x", 0)
    assert len(counter) == 0
    counter.record("ann", campaign(campaigns=[(1, 1)], creatives=[(1, 1)]), "x", 0)
    assert len(counter) == 2
    counter.forget("ann")
    assert len(counter) == 0


def test_a_raised_cap_applies_at_once() -> None:
    counter, tight = FrequencyCounter(KEY), campaign(campaigns=[(1, 24)])
    counter.record("ann", tight, "x", 0)
    assert counter.reached_caps("ann", True, 1, {"C1": tight}.get).campaigns == {"C1"}
    looser = msgspec.structs.replace(tight, campaign_caps=(FrequencyCap(impressions=2, hours=24),))
    assert counter.reached_caps("ann", True, 1, {"C1": looser}.get).campaigns == frozenset()


def test_no_user_id_is_kept_in_memory() -> None:
    counter = FrequencyCounter(KEY)
    counter.record("a-particular-reader", campaign(campaigns=[(1, 1)]), "x", 0)
    held = repr(vars(counter))
    assert "C1" in held
    assert "particular" not in held


def test_weak_keys_and_tiny_memories_are_refused() -> None:
    with pytest.raises(ConfigError, match="key"):
        FrequencyCounter(b"short")
    with pytest.raises(ConfigError, match="capacity"):
        FrequencyCounter(KEY, capacity=1)
