"""Unbooked spend across routers, on both databases."""

from __future__ import annotations

from datetime import timedelta

from serving.database.engine import Database
from serving.ledger.accrued import STALE, AccruedStore
from tests.serving.database.samples import NOW


def test_a_router_reads_the_sum_of_the_others(database: Database) -> None:
    one, two, three = (AccruedStore(database, name) for name in ("r1", "r2", "r3"))
    assert one.exchange({"c1": 10, "c2": 5}, NOW) == {}
    assert two.exchange({"c1": 7}, NOW) == {"c1": 10, "c2": 5}
    assert three.exchange({}, NOW) == {"c1": 17, "c2": 5}
    assert one.exchange({"c1": 12}, NOW) == {"c1": 7}
    assert three.exchange({}, NOW) == {"c1": 19}


def test_what_a_router_that_is_gone_left_is_forgotten(database: Database) -> None:
    one, two = AccruedStore(database, "r1"), AccruedStore(database, "r2")
    one.exchange({"c1": 10}, NOW)
    later = NOW + STALE - timedelta(seconds=1)
    assert two.exchange({}, later) == {"c1": 10}
    assert one.exchange({"c1": 10}, later) == {}  # writes again, though nothing changed
    assert two.exchange({}, NOW + STALE) == {"c1": 10}
    two.sweep(later + STALE)
    assert two.exchange({}, later) == {}
