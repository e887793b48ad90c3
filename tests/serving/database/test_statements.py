"""Statements: months that follow from one another and add up to the ledger, to the micro."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli.main import app
from mechanism.errors import InputError
from serving.accounts.advertisers import AdvertiserStore
from serving.campaigns.changes import Actor
from serving.campaigns.funds import Account
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.refunds import Clicks, refund
from serving.reports.reports import totals
from serving.reports.statements import Statement, statements, statements_csv
from tests.serving.database.samples import NOW, campaign, click

_fresh = count(1)
OWN = Account("a1", "EUR")
BY = Actor(role="admin", key_id="key_1", name="Ann")
SEPTEMBER = datetime(2026, 9, 1, tzinfo=UTC)


@contextmanager
def booked_at(moment: datetime) -> Iterator[None]:
    """Let the ledger book at a moment."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return moment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.ledger.charging.datetime", Clock)
        patch.setattr("serving.ledger.refunds.datetime", Clock)
        yield


@pytest.fixture
def store(database: Database) -> AdvertiserStore:
    CampaignStore(database).create(campaign(1), NOW)
    return AdvertiserStore(database)


def figures(line: Statement) -> tuple[int, int, int, int, int]:
    return (
        line.opening_micros,
        line.payments_micros,
        line.charges_micros,
        line.refunds_micros,
        line.closing_micros,
    )


def test_entries_count_in_the_month_in_which_they_were_booked(store: AdvertiserStore, database: Database) -> None:
    ledger = Ledger(database)
    october = datetime(2026, 10, 1, tzinfo=UTC)
    store.pay(OWN, 1_000_000, "bank 1", SEPTEMBER + timedelta(days=3), BY)
    with booked_at(october - timedelta(microseconds=1)):
        ledger.book([click(1, source="s1", occurred_at=october - timedelta(hours=1))])
    with booked_at(october):
        ledger.book([click(2, occurred_at=october - timedelta(hours=1))])
        refund(database, Clicks(source="s1"), "bot")
    found = [figures(line) for month in ("2026-09", "2026-10", "2026-11") for line in statements(database, month, NOW)]
    assert found == [
        (0, 1_000_000, 250_000, 0, 750_000),
        (750_000, 0, 250_000, 250_000, 750_000),
        (750_000, 0, 0, 0, 750_000),
    ]
    assert statements(database, "2026-08", NOW) == []


def test_a_month_is_final_when_nothing_more_can_be_booked_in_it(store: AdvertiserStore, database: Database) -> None:
    store.pay(OWN, 5, "bank 1", SEPTEMBER, BY)
    over = datetime(2026, 10, 1, tzinfo=UTC)
    moments = (over - timedelta(seconds=1), over + timedelta(minutes=4), over + timedelta(minutes=5))
    assert [statements(database, "2026-09", now)[0].final for now in moments] == [False, False, True]


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-00", "2026-1", "1999-12", "9999-01", "2026-12", "x"])
def test_wrong_months_are_refused(database: Database, month: str) -> None:
    with pytest.raises(InputError, match="month"):
        statements(database, month, NOW)


def test_each_currency_has_its_own_statement(store: AdvertiserStore, database: Database) -> None:
    store.pay(OWN, 5, "bank 1", NOW, BY)
    store.pay(Account("a1", "USD"), 6, "bank 2", NOW, BY)
    store.pay(Account("=b", "EUR"), 7, "bank 3", NOW, BY)
    lines = statements(database, "2026-11", NOW, "a1")
    assert [(line.currency, line.closing_micros) for line in lines] == [("EUR", 5), ("USD", 6)]
    rows = list(csv.DictReader(io.StringIO(statements_csv(statements(database, "2026-11", NOW)))))
    assert [(row["advertiser_id"], row["closing_micros"]) for row in rows] == [("'=b", "7"), ("a1", "5"), ("a1", "6")]


def test_the_command_prints_a_month(url: str) -> None:
    database = Database(url)
    AdvertiserStore(database).pay(OWN, 5, "bank 1", SEPTEMBER, BY)
    command = ["accounts", "statement", "--database", url, "--month", "2026-09"]
    assert CliRunner().invoke(app, command).output.splitlines()[1] == '"a1","EUR","2026-09",0,5,0,0,5,"true"'
    printed = json.loads(CliRunner().invoke(app, [*command, "--json", "--advertiser", "a1"]).output)
    assert printed["lines"][0]["closing_micros"] == 5
    assert json.loads(CliRunner().invoke(app, [*command, "--json", "--advertiser", "b"]).output) == {"lines": []}
    database.close()


entries = st.lists(
    st.tuples(
        st.integers(0, 89),  # the day from the first of September on
        st.sampled_from(("click", "click", "pay", "take", "refund")),
        st.integers(1, 10**9),
        st.sampled_from(("s1", "s2", "s3")),
    ),
    max_size=20,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries, st.none() | st.integers(0, 10**9))
def test_months_follow_from_one_another_and_add_up_to_the_ledger(
    database: Database, done: list[tuple[int, str, int, str]], limit: int | None
) -> None:
    name = f"m{next(_fresh)}"
    own, store, ledger = Account(name, "EUR"), AdvertiserStore(database), Ledger(database)
    CampaignStore(database).create(campaign(1, id=name, creatives=(), advertiser_id=name), NOW)
    store.set_limit(own, limit, NOW, BY)
    sums: dict[str, dict[str, int]] = {month: dict.fromkeys(("pay", "click", "refund"), 0) for month in MONTHS}
    open_: dict[str, int] = dict.fromkeys(("s1", "s2", "s3"), 0)
    for n, (day, kind, micros, source) in enumerate(sorted(done)):
        moment = SEPTEMBER + timedelta(days=day, minutes=n)
        month = sums[f"{moment:%Y-%m}"]
        with booked_at(moment):
            if kind == "click":
                event = click(1, id=f"{name}:{n}", campaign_id=name, price_micros=micros, source=f"{name}-{source}")
                charged = ledger.book([event])[0].charged_micros
                month["click"], open_[source] = month["click"] + charged, open_[source] + charged
            elif kind == "refund":
                refund(database, Clicks(source=f"{name}-{source}"), "test")
                month["refund"], open_[source] = month["refund"] + open_[source], 0
            else:
                amount = micros if kind == "pay" else -micros
                store.pay(own, amount, f"bank {n}", moment, BY)
                month["pay"] += amount
    lines = [statements(database, month, SEPTEMBER + timedelta(days=100), name) for month in MONTHS]
    found = [line for (line,) in filter(None, lines)]
    assert [figures(line)[1:4] for line in found] == [tuple(sums[line.month].values()) for line in found]
    assert all(not any(sums[month].values()) for month in set(MONTHS) - {line.month for line in found})
    assert all(earlier.closing_micros == later.opening_micros for earlier, later in pairwise(found))
    assert all(o + p - c + r == closing for o, p, c, r, closing in map(figures, found))
    charged = sum(total.charged_micros for total in totals(database, name))
    assert sum(line.charges_micros - line.refunds_micros for line in found) == charged
    (account,) = store.accounts(name).items
    if found:
        assert found[0].opening_micros == 0
        assert found[-1].closing_micros == account.paid_micros - charged
    assert account.paid_micros == sum(line.payments_micros for line in found)


MONTHS = ("2026-09", "2026-10", "2026-11")
