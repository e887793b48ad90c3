"""Charging: each event once, on its own day, never past a budget, all of a batch or nothing."""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError

from mechanism.errors import InputError
from serving.campaigns.snapshots import snapshot
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import Pricing
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.entries import BadEvents, ChargeEvent, Offset
from serving.reports.reports import Query, Record, charges_of, report, totals
from streaming.log import Fenced
from tests.serving.database.samples import NOW, campaign, click
from tests.support.postgres import PostgresServer

_fresh = count(1)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    CampaignStore(database).create(campaign(1), NOW)
    return Ledger(database)


def records(database: Database) -> list[Record]:
    return list(charges_of(database, limit=1_000).items)


def spent(database: Database, campaign_id: str = "c1") -> tuple[int, int]:
    """Return the spend in all and on the day of NOW."""
    (own,) = (s for s in snapshot(database, NOW).spends if s.campaign_id == campaign_id)
    return own.total_micros, own.day_micros


def test_a_charge_record_holds_the_whole_event(ledger: Ledger, database: Database) -> None:
    result = ledger.book([click(1)])[0]
    assert (result.charged_micros, result.reason, result.new) == (250_000, "", True)
    (record,) = records(database)
    sent = msgspec.structs.asdict(click(1)) | {"kind": "click"}
    assert sent.items() <= msgspec.structs.asdict(record).items()
    assert (record.advertiser_id, record.charged_micros, record.day) == ("a1", 250_000, "2026-11-24")
    assert spent(database) == (250_000, 250_000)
    assert [(t.charged_micros, t.charges) for t in totals(database, "a1")] == [(250_000, 1)]


def test_a_repeated_event_changes_nothing(ledger: Ledger, database: Database) -> None:
    first = ledger.book([click(1), click(1), click(2)])
    again = ledger.book([click(2), click(1, price_micros=9)])
    assert [o.new for o in first + again] == [True, False, True, False, False]
    assert {o.charged_micros for o in again} == {250_000}
    assert spent(database)[0] == 500_000
    assert len(records(database)) == 2


def test_each_kind_is_charged_separately(ledger: Ledger, database: Database) -> None:
    ledger.book([click(1, id="auction-1:c1-1", kind=kind, price_micros=10) for kind in Pricing])
    assert spent(database)[0] == 30
    (line,) = report(database, Query())
    assert (line.clicks, line.charged_clicks, line.revenue_micros) == (1, 1, 30)


def test_an_invalid_click_costs_nothing_and_blocks_no_valid_one(ledger: Ledger, database: Database) -> None:
    prefetch = click(1, invalid="prefetch")
    results = ledger.book([prefetch, prefetch, click(1), click(1, invalid="bot")])
    assert [(o.charged_micros, o.reason, o.new) for o in results] == [
        (0, "invalid:prefetch", True),
        (0, "invalid:prefetch", False),
        (250_000, "", True),
        (0, "invalid:bot", True),
    ]
    assert {r.reason for r in records(database)} == {"", "invalid:prefetch", "invalid:bot"}
    (line,) = report(database, Query())
    assert (line.clicks, line.charged_clicks) == (1, 1)


def test_the_last_charge_takes_the_rest_of_the_budget(database: Database) -> None:
    CampaignStore(database).create(campaign(1, total_budget_micros=600_000), NOW)
    results = Ledger(database).book([click(n) for n in range(4)])
    assert [(o.charged_micros, o.reason) for o in results] == [
        (250_000, ""),
        (250_000, ""),
        (100_000, "budget"),
        (0, "budget"),
    ]
    assert spent(database)[0] == 600_000


def test_a_late_event_is_charged_to_its_own_day(database: Database) -> None:
    # In New York, the 1st of November 2026 has 25 hours.
    new_york = campaign(1, daily_budget_micros=300_000, time_zone="America/New_York")
    CampaignStore(database).create(new_york, NOW)
    moments = [
        datetime(2026, 11, 2, 5, 0, tzinfo=UTC),
        datetime(2026, 11, 1, 4, 0, tzinfo=UTC),
        datetime(2026, 11, 2, 4, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 11, 1, 3, 59, 59, 999_999, tzinfo=UTC),
    ]
    results = Ledger(database).book([click(n, occurred_at=moment) for n, moment in enumerate(moments)])
    assert [o.charged_micros for o in results] == [250_000, 250_000, 50_000, 250_000]
    days = {r.id: r.day for r in records(database)}
    assert days == {"k0": "2026-11-02", "k1": "2026-11-01", "k2": "2026-11-01", "k3": "2026-10-31"}


def test_a_budget_lowered_below_what_is_spent_leaves_nothing(ledger: Ledger, database: Database) -> None:
    ledger.book([click(n) for n in range(4)])
    store = CampaignStore(database)
    lowered = msgspec.structs.replace(store.get("c1"), total_budget_micros=1, daily_budget_micros=1)
    store.update(lowered, NOW)
    assert ledger.book([click(9)])[0].charged_micros == 0
    raised = msgspec.structs.replace(store.get("c1"), total_budget_micros=1_100_000, daily_budget_micros=None)
    store.update(raised, NOW)
    assert ledger.book([click(10)])[0].charged_micros == 100_000


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10**13)), max_size=12),
    total=st.none() | st.integers(0, 4 * 10**13),
    daily=st.none() | st.integers(0, 2 * 10**13),
    seed=st.integers(0, 2**32),
)
def test_the_sum_is_what_the_budgets_allow_in_any_order(
    database: Database, events: list[tuple[int, int]], total: int | None, daily: int | None, seed: int
) -> None:
    own, ledger, chance = f"c{next(_fresh)}", Ledger(database), random.Random(seed)
    CampaignStore(database).create(
        campaign(1, id=own, creatives=(), daily_budget_micros=daily, total_budget_micros=total), NOW
    )
    clicks = [
        click(1, id=f"{own}:{n}", campaign_id=own, price_micros=price, occurred_at=NOW - timedelta(days=day))
        for n, (day, price) in enumerate(events)
    ]
    sent = clicks + chance.choices(clicks, k=4) if clicks else []
    chance.shuffle(sent)
    while sent:
        size = chance.randint(1, 4)
        ledger.book(sent[:size])
        sent = sent[size:]
    of_day: dict[int, int] = defaultdict(int)
    for day, price in events:
        of_day[day] += price
    allowed = sum(asked if daily is None else min(asked, daily) for asked in of_day.values())
    found = [r for r in records(database) if r.campaign_id == own]
    assert len(found) == len(events)
    assert sum(r.charged_micros for r in found) == (allowed if total is None else min(allowed, total))
    assert spent(database, own)[0] == sum(r.charged_micros for r in found)
    charged_on: dict[str, int] = defaultdict(int)
    for r in found:
        assert 0 <= r.charged_micros <= r.price_micros
        charged_on[r.day] += r.charged_micros
    assert daily is None or all(micros <= daily for micros in charged_on.values())
    with database.read() as connection:
        days = connection.execute(text("SELECT day, micros FROM campaign_days WHERE campaign_id = :c"), {"c": own})
        assert {day: micros for day, micros in days} == {day: micros for day, micros in charged_on.items() if micros}


def test_concurrent_writers_never_exceed_a_budget(database: Database) -> None:
    # Eight writers send the same clicks on several campaigns, each in a different order.
    store = CampaignStore(database)
    for number in range(1, 5):
        store.create(campaign(number, total_budget_micros=7 * 250_000 + 1), NOW)
    clicks = [click(n, campaign_id=f"c{n % 4 + 1}") for n in range(48)]

    def write(seed: int) -> int:
        mine = random.Random(seed).sample(clicks, k=len(clicks))
        charged = 0
        for start in range(0, len(mine), 8):
            results = Ledger(database).book(mine[start : start + 8])
            charged += sum(o.charged_micros for o in results if o.new)
        return charged

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(write, range(8))) == 4 * (7 * 250_000 + 1)
    assert {spent(database, f"c{n}")[0] for n in range(1, 5)} == {7 * 250_000 + 1}
    assert len(records(database)) == 48
    assert [t.charged_micros for t in totals(database)] == [4 * (7 * 250_000 + 1)]


def test_events_that_fit_no_campaign_are_refused_and_nothing_is_written(ledger: Ledger, database: Database) -> None:
    good, foreign, unknown = click(1), click(2, currency="USD"), click(3, campaign_id="c9")
    with pytest.raises(BadEvents, match="pays in EUR") as raised:
        ledger.book([good, foreign, unknown], offsets=[Offset(consumer="w", partition=0, next_offset=3)])
    assert [index for index, _ in raised.value.rejected] == [1, 2]
    assert records(database) == []
    assert ledger.next_offset("w", 0) is None
    assert ledger.book([good])[0].new


def test_the_offset_is_written_with_the_charges(ledger: Ledger, database: Database) -> None:
    ledger.book([click(1)], offsets=[Offset(consumer="w", partition=0, next_offset=1)])
    ledger.book(offsets=[Offset(consumer="w", partition=1, next_offset=8)])
    ledger.book([click(2)], offsets=[Offset(consumer="w", partition=0, next_offset=2, previous=1)])
    assert [ledger.next_offset("w", partition) for partition in (0, 1, 2)] == [2, 8, None]


@pytest.mark.parametrize("previous", [None, 1, 3])
def test_a_worker_that_another_one_overtook_is_fenced_and_charges_nothing(
    ledger: Ledger, database: Database, previous: int | None
) -> None:
    ledger.book([click(1)], offsets=[Offset(consumer="w", partition=0, next_offset=2)])
    with pytest.raises(Fenced, match="offset of w 0: another worker"):
        ledger.book([click(2)], offsets=[Offset(consumer="w", partition=0, next_offset=4, previous=previous)])
    assert len(records(database)) == 1
    assert ledger.next_offset("w", 0) == 2
    ledger.book([click(2)], offsets=[Offset(consumer="w", partition=0, next_offset=4, previous=2)])
    # the same again, as after a commit whose answer was lost
    ledger.book([click(2)], offsets=[Offset(consumer="w", partition=0, next_offset=4, previous=2)])
    assert ledger.next_offset("w", 0) == 4


@pytest.mark.parametrize("broken", ["advertiser_totals", "report_counters", "consumer_offsets"])
def test_a_charge_is_rolled_back_when_its_totals_cannot_be_written(
    ledger: Ledger, database: Database, broken: str
) -> None:
    offset = Offset(consumer="w", partition=0, next_offset=1)
    database.transact(lambda c: c.execute(text(f"ALTER TABLE {broken} RENAME TO elsewhere")))
    with pytest.raises(DBAPIError):
        ledger.book([click(1)], offsets=[offset])
    database.transact(lambda c: c.execute(text(f"ALTER TABLE elsewhere RENAME TO {broken}")))
    assert records(database) == []
    assert spent(database) == (0, 0)
    assert ledger.book([click(1)], offsets=[offset])[0].new


def test_a_charge_whose_commit_is_lost_is_written_once(postgres: PostgresServer) -> None:
    # The server closes the connection just before the commit; the retry succeeds without an error.
    database = Database(postgres.create("lost", template="migrated"))
    CampaignStore(database).create(campaign(1), NOW)
    ended = []

    def end(connection: Connection) -> None:
        if not ended:
            ended.append(True)
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    event.listen(database.engine, "commit", end)
    assert Ledger(database).book([click(1), click(2)])[1].charged_micros == 250_000
    assert ended
    assert spent(database)[0] == 500_000
    database.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"price_micros": -1},
        {"price_micros": 1.5},
        {"price_micros": True},
        {"price_micros": 10**14},
        {"occurred_at": datetime(2026, 1, 1)},
        {"id": ""},
        {"currency": ""},
    ],
)
def test_an_invalid_charge_event_is_bad_input(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        click(1, **bad)


def test_events_decoded_from_json_are_checked() -> None:
    sent = msgspec.json.encode(click(1))
    assert msgspec.json.decode(sent, type=ChargeEvent) == click(1)
    with pytest.raises((InputError, msgspec.ValidationError)):
        msgspec.json.decode(sent.replace(b"250000", b"-250000"), type=ChargeEvent)


def test_unstorable_text_and_oversized_batches_are_bad_input(ledger: Ledger, database: Database) -> None:
    for bad in (click(1, placement="a\0b"), click(1, id="\ud800")):
        with pytest.raises(InputError):
            ledger.book([bad])
    with pytest.raises(InputError, match="10000 at most"):
        ledger.book([click(1)] * 10_001)
    assert records(database) == []
