"""Frequency caps: never more impressions per reader and window than promised, over all routers and restarts."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.auction.frequency import RESERVED, FrequencyCaps
from serving.campaigns.types import Campaign, FrequencyCap
from serving.database.engine import Database
from serving.database.migrations import migrate
from tests.serving.database.samples import NOW, campaign

KEY = b"a key of the tests, random"
HOUR = timedelta(hours=1)


def capped(number: int = 1, campaigns: Any = (), creatives: Any = ()) -> Campaign:
    caps = [tuple(FrequencyCap(impressions=n, hours=h) for n, h in given_) for given_ in (campaigns, creatives)]
    return campaign(number, campaign_caps=caps[0], creative_caps=caps[1])


def show(
    caps: FrequencyCaps, user: str, auction: str, own: Campaign, at: datetime, creative: str = "x", shown: bool = True
) -> bool:
    """Reserve, and settle as shown or not; return whether it was allowed."""
    allowed = caps.reserve(user, auction, [(own, creative)], at)
    caps.settle(user, auction, [creative] if shown else [], at)
    return bool(allowed)


def test_ten_routers_keep_a_cap_of_three_exactly(url: str) -> None:
    """Each has its own connections; every reader asks 12 times at once through different routers."""
    databases = [Database(url, pool_size=2) for _ in range(10)]
    routers = [FrequencyCaps(database, KEY) for database in databases]
    own = capped(campaigns=[(3, 24)])
    asked = [(reader, number) for reader in range(5) for number in range(12)]
    random.Random(1).shuffle(asked)

    def ask(job: tuple[int, int]) -> int | None:
        reader, number = job
        allowed = show(routers[(reader + number) % 10], f"reader {reader}", f"auction {reader} {number}", own, NOW)
        return reader if allowed else None

    with ThreadPoolExecutor(10) as pool:
        shown = list(pool.map(ask, asked))
    assert {reader: shown.count(reader) for reader in range(5)} == dict.fromkeys(range(5), 3)
    assert routers[3].reached("reader 1", True, NOW, {"c1": own}.get).campaigns == {"c1"}
    for database in databases:
        database.close()


def test_a_reservation_counts_until_it_is_given_back(database: Database) -> None:
    caps, own = FrequencyCaps(database, KEY), capped(campaigns=[(1, 24)])
    assert caps.reserve("ann", "a1", [(own, "x")], NOW) == {"x"}
    assert caps.reserve("ann", "a2", [(own, "x")], NOW) == frozenset()
    caps.settle("ann", "a1", [], NOW)
    assert caps.reserve("ann", "a3", [(own, "x")], NOW) == {"x"}
    caps.settle("ann", "a3", ["x"], NOW)
    assert caps.reserve("ann", "a4", [(own, "x")], NOW + RESERVED) == frozenset()


def test_a_reservation_of_a_router_that_is_gone_expires(database: Database) -> None:
    caps, own = FrequencyCaps(database, KEY), capped(campaigns=[(1, 24)])
    caps.reserve("ann", "a1", [(own, "x")], NOW)
    assert caps.reached("ann", True, NOW + RESERVED - HOUR / 60, {"c1": own}.get).campaigns == {"c1"}
    assert caps.reached("ann", True, NOW + RESERVED, {"c1": own}.get).campaigns == frozenset()
    assert show(caps, "ann", "a2", own, NOW + RESERVED)


def test_creatives_have_caps_of_their_own(database: Database) -> None:
    caps, own = FrequencyCaps(database, KEY), capped(campaigns=[(3, 24)], creatives=[(1, 24)])
    assert caps.reserve("ann", "a1", [(own, "x"), (own, "y")], NOW) == {"x", "y"}
    caps.settle("ann", "a1", ["x"], NOW)
    found = caps.reached("ann", True, NOW, {"c1": own}.get)
    assert (found.campaigns, found.creatives) == (frozenset(), {"x"})
    assert caps.reserve("ann", "a2", [(own, "x"), (own, "y"), (own, "z")], NOW) == {"y", "z"}


def test_a_window_ends_to_the_second(database: Database) -> None:
    caps, own = FrequencyCaps(database, KEY), capped(campaigns=[(1, 2)])
    show(caps, "ann", "a1", own, NOW)
    assert caps.reached("ann", True, NOW + 2 * HOUR - HOUR / 3_600, {"c1": own}.get).campaigns == {"c1"}
    assert caps.reached("ann", True, NOW + 2 * HOUR, {"c1": own}.get).campaigns == frozenset()


def test_a_changed_cap_applies_at_once(database: Database) -> None:
    caps = FrequencyCaps(database, KEY)
    show(caps, "ann", "a1", capped(campaigns=[(1, 24)]), NOW)
    assert caps.reached("ann", True, NOW, {"c1": capped(campaigns=[(2, 24)])}.get).campaigns == frozenset()
    assert caps.reached("ann", True, NOW, {"c1": capped(campaigns=[(1, 24)])}.get).campaigns == {"c1"}


def test_no_reader_is_counted_without_consent_or_an_id(database: Database) -> None:
    caps = FrequencyCaps(database, KEY)
    for user, consent in (("ann", False), (None, True), ("", True)):
        assert not caps.reached(user, consent, NOW, {}.get).countable
    assert caps.reached("ann", True, NOW, {}.get).countable


def test_what_no_cap_counts_is_deleted(database: Database) -> None:
    caps, own = FrequencyCaps(database, KEY), capped(campaigns=[(1, 2)])
    show(caps, "ann", "a1", own, NOW)
    caps.sweep(NOW + 2 * HOUR - HOUR / 60)
    assert caps.reached("ann", True, NOW, {"c1": own}.get).campaigns == {"c1"}
    caps.sweep(NOW + 2 * HOUR)
    assert caps.reached("ann", True, NOW, {"c1": own}.get).campaigns == frozenset()
    show(caps, "ann", "a2", own, NOW)
    caps.forget("ann")
    assert caps.reached("ann", True, NOW, {"c1": own}.get).campaigns == frozenset()


limits = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), min_size=1, max_size=2)
asks = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9 * 3_600), st.booleans()), max_size=20)


def test_no_window_holds_more_impressions_than_its_cap(tmp_path_factory: pytest.TempPathFactory) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('caps') / 'caps.sqlite3'}"
    migrate(url)
    database = Database(url)
    caps = FrequencyCaps(database, KEY)
    examples = iter(range(10_000))

    @settings(max_examples=25)
    @given(limits, asks)
    def hold(given_: list[tuple[int, int]], asked: list[tuple[str, int, bool]]) -> None:
        example, own, now = next(examples), capped(campaigns=given_), NOW
        seen: dict[str, list[datetime]] = {"a": [], "b": []}
        for number, (reader, later, is_shown) in enumerate(asked):
            now += timedelta(seconds=later)
            free = all(
                sum(at > now - timedelta(hours=cap.hours) for at in seen[reader]) < cap.impressions
                for cap in own.campaign_caps
            )
            allowed = show(caps, f"{example} {reader}", f"{example} {number}", own, now, shown=is_shown)
            assert allowed == free
            seen[reader] += [now] if allowed and is_shown else []

    hold()
    database.close()


def test_weak_keys_are_refused(database: Database) -> None:
    with pytest.raises(ConfigError, match="key"):
        FrequencyCaps(database, b"short")
