"""Refunds: exactly what the clicks were charged, once, with every charge record left as it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from typer.testing import CliRunner

from cli.main import app
from mechanism.errors import InputError
from serving.accounts.advertisers import AdvertiserStore
from serving.campaigns.changes import PLATFORM
from serving.campaigns.funds import Account
from serving.campaigns.snapshots import snapshot
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import Pricing
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.database.schema import refunds
from serving.ledger.charging import Ledger
from serving.ledger.refunds import Clicks, refund
from serving.reports.reports import Dimension, Query, Record, charges_of, report, totals
from tests.serving.database.samples import NOW, campaign, click
from tests.support.postgres import PostgresServer

_fresh = count(1)
SOURCES = ("s1", "s2", "")
PLACEMENTS = ("chat", "search")


def records(database: Database, advertiser: str = "") -> list[Record]:
    return list(charges_of(database, advertiser_id=advertiser, limit=1_000).items)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    CampaignStore(database).create(campaign(1), NOW)
    return Ledger(database)


def test_a_refund_frees_the_budget_and_keeps_the_charge(database: Database) -> None:
    CampaignStore(database).create(campaign(1, total_budget_micros=300_000), NOW)
    ledger = Ledger(database)
    ledger.book([click(1, source="s1"), click(2, source="s1"), click(3, source="s2")])
    assert [record.charged_micros for record in records(database)] == [0, 50_000, 250_000]
    given_back = refund(database, Clicks(source="s1"), "datacenter")
    assert (given_back.clicks, given_back.micros) == (2, {"EUR": 300_000})
    assert ledger.book([click(1, source="s1")])[0].new is False
    assert ledger.book([click(4)])[0].charged_micros == 250_000
    (line,) = report(database, Query())
    figures = (line.clicks, line.invalid_clicks, line.revenue_micros, line.refunded_micros, line.net_micros)
    assert figures == (4, 2, 550_000, 300_000, 250_000)
    found = {
        record.id: (record.charged_micros, record.refunded_micros, record.refund_reason) for record in records(database)
    }
    assert found["k1"] == (250_000, 250_000, "datacenter")
    assert found["k3"] == (0, 0, "")


def test_a_second_refund_finds_nothing(ledger: Ledger, database: Database) -> None:
    ledger.book([click(1, source="s1"), click(1, source="s1", invalid="prefetch")])
    assert refund(database, Clicks(click_id="k1"), "bot").clicks == 1
    assert refund(database, Clicks(source="s1"), "again").clicks == 0
    assert totals(database)[0].charged_micros == 0


def test_refunds_and_charges_at_once_stay_exact(ledger: Ledger, database: Database) -> None:
    ledger.book([click(n, source="s1") for n in range(100)])
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(refund, database, Clicks(source="s1"), "bot") for _ in range(3)]
        booking = pool.submit(ledger.book, [click(n, source="s2") for n in range(100, 140)])
        refunded = sum(call.result().clicks for call in calls)
        booking.result()
    assert refunded == 100
    assert totals(database)[0].charged_micros == 40 * 250_000


def test_refunds_lock_accounts_in_the_order_of_charges(postgres: PostgresServer) -> None:
    """Also where the database sorts "a" before "B" and Python does not."""
    url = postgres.create("collated", "template0", "LOCALE_PROVIDER icu ICU_LOCALE 'en'")
    migrate(url)
    database = Database(url)
    for number, advertiser in enumerate(("a", "B"), start=1):
        CampaignStore(database).create(campaign(number, advertiser_id=advertiser), NOW)
        AdvertiserStore(database).set_limit(Account(advertiser, "EUR"), 10**6, NOW, PLATFORM)
    Ledger(database).book([click(n, campaign_id=f"c{n}", source="s1") for n in (1, 2)])
    account = "SELECT FROM advertiser_accounts WHERE advertiser_id = '{}' FOR UPDATE NOWAIT"
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with ThreadPoolExecutor(1) as pool:
        with database.engine.begin() as other:
            other.execute(text(account.format("a")))
            refunded = pool.submit(refund, database, Clicks(source="s1"), "bot")
            while not refunded.done() and not other.execute(text(waiting)).scalar():
                time.sleep(0.01)
            assert not refunded.done()
            other.execute(text(account.format("B")))
        assert refunded.result().clicks == 2
    database.close()
    postgres.drop("collated")


def test_each_batch_is_booked_at_its_own_time(
    ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.book([click(n, source="s1") for n in range(3)])
    monkeypatch.setattr("serving.ledger.refunds.BATCH", 1)
    assert refund(database, Clicks(source="s1"), "bot").clicks == 3
    with database.read() as connection:
        times = connection.execute(select(refunds.c.recorded_at).order_by(refunds.c.id)).scalars().all()
    assert sorted(set(times)) == times
    assert len(times) == 3


def test_a_batch_whose_commit_was_in_doubt_is_reported(
    ledger: Ledger, database: Database, in_doubt: Callable[[Database], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.book([click(n, source="s1") for n in range(3)])
    in_doubt(database)
    monkeypatch.setattr("serving.ledger.refunds.BATCH", 2)
    given_back = refund(database, Clicks(source="s1"), "bot")
    assert (given_back.clicks, given_back.micros) == (3, {"EUR": 750_000})
    assert totals(database)[0].charged_micros == 0


def test_clicks_cannot_be_chosen_by_campaign_alone() -> None:
    with pytest.raises(InputError, match="source or placement"):
        Clicks(campaign_id="c1")


def test_the_command_refunds_a_source(url: str) -> None:
    database = Database(url)
    CampaignStore(database).create(campaign(1), NOW)
    Ledger(database).book([click(1, source="s1"), click(2, source="s2")])
    arguments = ["clicks", "invalidate", "--database", url, "--source", "s1", "--reason", "datacenter"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 clicks invalidated; refunded: 250000 micros EUR" in result.output
    assert totals(database)[0].charged_micros == 250_000
    database.close()


traffic = st.lists(
    st.tuples(
        st.sampled_from((0, 1)),  # campaign
        st.integers(0, 400_000),  # price
        st.sampled_from(SOURCES),
        st.sampled_from(PLACEMENTS),
        st.sampled_from(("", "prefetch")),
        st.sampled_from(tuple(Pricing)),
    ),
    max_size=20,
)
choices = st.lists(st.sampled_from([{"source": "s1"}, {"source": "s2"}, {"placement": "chat"}]), max_size=3)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(traffic, choices)
def test_totals_and_lines_equal_charges_less_refunds(
    database: Database, events: list[tuple[int, int, str, str, str, Pricing]], chosen: list[dict[str, str]]
) -> None:
    number = next(_fresh)
    advertiser, ids = f"r{number}", (2 * number + 1_000, 2 * number + 1_001)
    for id_, budget in zip(ids, (None, 500_000), strict=True):
        own = campaign(id_, advertiser_id=advertiser, total_budget_micros=budget, daily_budget_micros=budget)
        CampaignStore(database).create(own, NOW)
    Ledger(database).book(
        [
            click(
                n,
                id=f"{number}-{n}",
                campaign_id=f"c{ids[which]}",
                creative_id=f"c{ids[which]}-1",
                price_micros=price,
                source=source and f"{source}-{number}",
                placement=placement and f"{placement}-{number}",
                invalid=invalid if kind is Pricing.CLICK else "",
                kind=kind,
            )
            for n, (which, price, source, placement, invalid, kind) in enumerate(events)
        ]
    )
    before = records(database, advertiser)
    given_back = 0
    for choice in chosen:
        own_choice = {name: f"{value}-{number}" for name, value in choice.items()}
        given_back += sum(refund(database, Clicks(**own_choice), "test").micros.values())
    after = records(database, advertiser)
    assert [r.charged_micros for r in after] == [r.charged_micros for r in before]
    assert all(r.refunded_micros == r.charged_micros for r in after if r.refund_reason)
    gross, refunded = sum(r.charged_micros for r in after), sum(r.refunded_micros for r in after)
    assert refunded == given_back
    assert sum(t.charged_micros for t in totals(database, advertiser)) == gross - refunded
    lines = report(database, Query(group_by=(Dimension.CAMPAIGN, Dimension.PLACEMENT), advertiser_id=advertiser))
    assert (sum(line.revenue_micros for line in lines), sum(line.net_micros for line in lines)) == (
        gross,
        gross - refunded,
    )
    spends = {s.campaign_id: s for s in snapshot(database, NOW).spends}
    assert sum(spends[f"c{id_}"].total_micros for id_ in ids if f"c{id_}" in spends) == gross - refunded
    assert sum(spends[f"c{id_}"].day_micros for id_ in ids if f"c{id_}" in spends) == gross - refunded
