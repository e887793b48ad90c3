"""Advertisers' accounts: exact to the micro, never overdrawn, whatever the order of charges, payments and refunds."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from typer.testing import CliRunner

from cli.main import app
from mechanism.errors import InputError
from serving.accounts.advertisers import AdvertiserAccount, AdvertiserStore, named_account
from serving.campaigns.changes import Actor
from serving.campaigns.funds import Account, Funds
from serving.campaigns.snapshots import changes_since, snapshot
from serving.campaigns.storage import CampaignStore
from serving.database.columns import MOST_MICROS
from serving.database.engine import Database
from serving.database.migrations import config, migrate
from serving.ledger.charging import Ledger
from serving.ledger.refunds import Clicks, refund
from tests.serving.database.samples import NOW, campaign, click

_fresh = count(1)
OWN = Account("a1", "EUR")
BY = Actor(role="admin", key_id="key_1", name="Ann")


@pytest.fixture
def store(database: Database) -> AdvertiserStore:
    """The store of a database with the campaigns c1 and c2 of a1."""
    for number in (1, 2):
        CampaignStore(database).create(campaign(number), NOW)
    return AdvertiserStore(database)


def account(store: AdvertiserStore, own: Account = OWN) -> AdvertiserAccount:
    (found,) = (one for one in store.accounts(own.advertiser_id).items if one.currency == own.currency)
    return found


def test_an_advertiser_without_terms_has_unlimited_credit(store: AdvertiserStore, database: Database) -> None:
    assert Ledger(database).book([click(1)])[0].charged_micros == 250_000
    found = account(store)
    assert (found.credit_limit_micros, found.charged_micros, found.available_micros) == (None, 250_000, None)
    assert snapshot(database, NOW).funds == ()


def test_charges_draw_a_prepaid_account_down_to_its_last_micro(store: AdvertiserStore, database: Database) -> None:
    ledger = Ledger(database)
    store.set_limit(OWN, 0, NOW, BY)
    assert ledger.book([click(1)])[0].charged_micros == 0
    store.pay(OWN, 600_001, "bank 1", NOW, BY)
    booked = [click(2), click(3, campaign_id="c2", creative_id="c2-1"), click(4), click(5)]
    results = ledger.book(booked)
    assert [(one.charged_micros, one.reason) for one in results] == [
        (250_000, ""),
        (250_000, ""),
        (100_001, "budget"),
        (0, "budget"),
    ]
    assert account(store).available_micros == 0
    store.pay(OWN, 250_000, "bank 2", NOW, BY)
    assert ledger.book([click(6)])[0].charged_micros == 250_000


def test_a_credit_line_counts_what_was_charged_before_it(store: AdvertiserStore, database: Database) -> None:
    ledger = Ledger(database)
    ledger.book([click(n) for n in range(4)])
    assert store.set_limit(OWN, 900_000, NOW, BY).available_micros == -100_000
    assert ledger.book([click(5)])[0].charged_micros == 0
    assert store.set_limit(OWN, 1_100_000, NOW, BY).available_micros == 100_000
    assert ledger.book([click(6)])[0].charged_micros == 100_000


def test_a_refund_gives_back(store: AdvertiserStore, database: Database) -> None:
    store.set_limit(OWN, 0, NOW, BY)
    store.pay(OWN, 250_000, "bank 1", NOW, BY)
    Ledger(database).book([click(1, source="s1"), click(2)])
    cursor = snapshot(database, NOW).cursor
    refund(database, Clicks(source="s1"), "bot")
    assert account(store).available_micros == 250_000
    assert Funds(OWN, 250_000) in changes_since(database, cursor, NOW).funds
    assert Ledger(database).book([click(3)])[0].charged_micros == 250_000


def test_another_currency_does_not_escape_the_terms(store: AdvertiserStore, database: Database) -> None:
    store.set_limit(OWN, 0, NOW, BY)
    CampaignStore(database).create(campaign(3, currency="USD"), NOW)
    assert account(store, Account("a1", "USD")).credit_limit_micros == 0
    dollars = click(1, campaign_id="c3", creative_id="c3-1", currency="USD")
    assert Ledger(database).book([dollars])[0].charged_micros == 0


def test_another_currency_has_unlimited_credit_as_well(store: AdvertiserStore, database: Database) -> None:
    CampaignStore(database).create(campaign(3, currency="USD"), NOW)
    assert account(store, Account("a1", "USD")).credit_limit_micros is None


def test_a_payment_is_entered_once_by_its_reference(
    store: AdvertiserStore, database: Database, in_doubt: Callable[[Database], None]
) -> None:
    first = store.pay(OWN, 5, "bank 1", NOW, BY)
    assert first[2] is True
    assert store.pay(OWN, 5, "bank 1", NOW, BY)[:2] == first[:2]
    assert store.pay(OWN, 5, "bank 1", NOW, BY)[2] is False
    for other, micros in ((OWN, 6), (Account("a1", "USD"), 5)):
        with pytest.raises(InputError, match="entered with 5 micros EUR"):
            store.pay(other, micros, "bank 1", NOW, BY)
    in_doubt(database)
    store.pay(OWN, 7, "bank 2", NOW, BY)
    assert account(store).paid_micros == 12
    assert [one.reference for one in store.payments("a1").items] == ["bank 2", "bank 1"]
    assert store.payments("other").items == ()


def test_a_mistaken_payment_is_taken_back(store: AdvertiserStore) -> None:
    store.set_limit(OWN, 0, NOW, BY)
    store.pay(OWN, 500, "bank 1", NOW, BY)
    assert store.pay(OWN, -500, "bank 1 was another's", NOW, BY)[1].available_micros == 0


@pytest.mark.parametrize("micros", [0, MOST_MICROS + 1, -MOST_MICROS - 1])
def test_impossible_amounts_are_refused(store: AdvertiserStore, micros: int) -> None:
    with pytest.raises(InputError, match="micros"):
        store.pay(OWN, micros, "x", NOW, BY)
    if micros:
        with pytest.raises(InputError, match="micros"):
            store.set_limit(OWN, micros, NOW, BY)


def test_all_payments_together_fit_the_column(store: AdvertiserStore) -> None:
    store.pay(OWN, MOST_MICROS, "bank 1", NOW, BY)
    with pytest.raises(InputError, match="together"):
        store.pay(OWN, 1, "bank 2", NOW, BY)
    assert account(store).paid_micros == MOST_MICROS


def test_accounts_are_listed_by_page(store: AdvertiserStore) -> None:
    for name in ("b", "c", "d"):
        store.set_limit(Account(name, "EUR"), 1, NOW, BY)
    first = store.accounts(limit=3)
    assert [one.advertiser_id for one in first.items] == ["a1", "b", "c"]
    assert [one.advertiser_id for one in store.accounts(cursor=first.cursor, limit=3).items] == ["d"]
    for number in range(3):
        store.pay(OWN, number + 1, f"bank {number}", NOW, BY)
    newest = store.payments(limit=2)
    assert [one.micros for one in newest.items] == [3, 2]
    assert [one.micros for one in store.payments(cursor=newest.cursor).items] == [1]
    with pytest.raises(InputError, match="cursor"):
        store.payments(cursor=first.cursor)


@pytest.mark.parametrize(("advertiser", "currency"), [("", "EUR"), ("a1", "eur"), ("a1", "")])
def test_accounts_need_an_advertiser_and_a_currency(advertiser: str, currency: str) -> None:
    with pytest.raises(InputError):
        named_account(advertiser, currency)


def test_routers_read_changes_of_limited_accounts_alone(store: AdvertiserStore, database: Database) -> None:
    def changed(work: Callable[[], object]) -> tuple[Funds, ...]:
        cursor = changes_since(database, 2**62, NOW).cursor
        work()
        return changes_since(database, cursor, NOW).funds

    assert changed(lambda: Ledger(database).book([click(1)])) == ()
    assert changed(lambda: store.set_limit(OWN, 1_000_000, NOW, BY)) == (Funds(OWN, 750_000),)
    assert changed(lambda: Ledger(database).book([click(2)])) == (Funds(OWN, 500_000),)
    assert changed(lambda: store.pay(OWN, 1, "bank 1", NOW, BY)) == (Funds(OWN, 500_001),)
    assert snapshot(database, NOW).funds == (Funds(OWN, 500_001),)
    assert changed(lambda: store.set_limit(OWN, None, NOW, BY)) == (Funds(OWN, None),)


def test_workers_at_once_never_overdraw_an_account(store: AdvertiserStore, database: Database) -> None:
    store.set_limit(OWN, 0, NOW, BY)
    store.pay(OWN, 10 * 250_000 + 7, "bank 1", NOW, BY)

    def book(worker: int) -> int:
        own = f"c{worker % 2 + 1}"
        clicks = [click(n, id=f"{worker}-{n}", campaign_id=own, creative_id=f"{own}-1") for n in range(6)]
        return sum(one.charged_micros for each in clicks for one in Ledger(database).book([each]))

    with ThreadPoolExecutor(4) as pool:
        charged = sum(pool.map(book, range(4)))
    assert charged == 10 * 250_000 + 7
    assert account(store).available_micros == 0


def test_advertisers_of_an_earlier_version_keep_unlimited_credit(empty_url: str) -> None:
    database = Database(empty_url)
    database.transact(lambda c: command.upgrade(config(c), "0009"))
    insert = "INSERT INTO advertiser_totals VALUES ('a1', 'EUR', 5, 1), ('a1', 'USD', 6, 1), ('b', 'EUR', 7, 1)"
    database.transact(lambda c: c.execute(text(insert)))
    migrate(empty_url)
    found = AdvertiserStore(database).accounts().items
    assert [(one.advertiser_id, one.currency, one.charged_micros, one.available_micros) for one in found] == [
        ("a1", "EUR", 5, None),
        ("a1", "USD", 6, None),
        ("b", "EUR", 7, None),
    ]
    database.close()


def test_a_payment_into_a_mistyped_sqlite_file_is_refused(tmp_path: Path) -> None:
    mistyped = tmp_path / "ruoter.sqlite3"
    pay = ["accounts", "pay", "a1", "EUR", "--micros", "5", "--reference", "bank 1"]
    refused = CliRunner().invoke(app, [*pay, "--database", f"sqlite:///{mistyped}"])
    assert (refused.exit_code, "--state-dir" in refused.output) == (2, True)
    assert not mistyped.exists()


def test_the_commands_set_terms_and_enter_payments(url: str) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["accounts", *arguments, "--database", url])

    assert "a1 EUR: prepaid; paid 0, charged 0, available 0 micros" in run("set", "a1", "EUR", "--prepaid").output
    pay = ("pay", "a1", "EUR", "--micros", "500", "--reference", "bank 1")
    assert run(*pay).output.startswith("entered\n")
    assert run(*pay).output.startswith("was entered before")
    assert "opened the account" not in run(*pay).stderr
    assert "a2 EUR: this payment opened the account" in run("pay", "a2", *pay[2:]).stderr
    assert "credit limit 7; paid 500, charged 0, available 507" in run("set", "a1", "EUR", "--credit-limit", "7").output
    assert "unlimited credit" in run("set", "b", "EUR", "--unlimited").output
    assert len(run("list").output.splitlines()) == 3
    assert len(run("list", "--advertiser", "b").output.splitlines()) == 1
    refused = run("set", "a1", "EUR")
    assert (refused.exit_code, "--prepaid" in refused.output) == (2, True)


events = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10**9)), max_size=12)
budgets = st.none() | st.integers(0, 4 * 10**9)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events, st.tuples(budgets, budgets), st.integers(0, 8 * 10**9), st.integers(0, 8 * 10**9), st.integers(0, 2**32))
def test_the_sum_is_what_account_and_budgets_allow_in_any_order(
    database: Database,
    booked: list[tuple[int, int]],
    totals: tuple[int | None, int | None],
    limit: int,
    paid: int,
    seed: int,
) -> None:
    number, chance = next(_fresh), random.Random(seed)
    own, store, ledger = Account(f"p{number}", "EUR"), AdvertiserStore(database), Ledger(database)
    ids = [f"p{number}-{which}" for which in (0, 1)]
    for id_, total in zip(ids, totals, strict=True):
        made = campaign(1, id=id_, creatives=(), advertiser_id=own.advertiser_id, total_budget_micros=total)
        CampaignStore(database).create(made, NOW)
    store.set_limit(own, limit, NOW, BY)
    if paid:
        store.pay(own, paid, "bank", NOW, BY)
    sent = [
        click(1, id=f"{ids[which]}:{n}", campaign_id=ids[which], price_micros=price)
        for n, (which, price) in enumerate(booked)
    ]
    chance.shuffle(sent)
    while sent:
        size = chance.randint(1, 4)
        ledger.book(sent[:size])
        sent = sent[size:]
    asked = [sum(price for which, price in booked if which == each) for each in (0, 1)]
    allowed = sum(micros if total is None else min(micros, total) for micros, total in zip(asked, totals, strict=True))
    found = account(store, own)
    assert found.charged_micros == min(allowed, limit + paid)
    assert found.available_micros == limit + paid - found.charged_micros >= 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("click"), st.integers(0, 10**6)),
        st.tuples(st.just("pay"), st.integers(1, 10**6)),
        st.tuples(st.just("refund"), st.integers(0, 3)),
    ),
    max_size=20,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps)
def test_a_prepaid_account_is_what_was_paid_less_charges_plus_refunds(
    database: Database, done: list[tuple[str, int]]
) -> None:
    number = next(_fresh)
    own, id_ = Account(f"q{number}", "EUR"), f"q{number}"
    store, ledger = AdvertiserStore(database), Ledger(database)
    CampaignStore(database).create(campaign(1, id=id_, creatives=(), advertiser_id=own.advertiser_id), NOW)
    store.set_limit(own, 0, NOW, BY)
    left, charged = 0, {source: 0 for source in range(4)}
    for n, (kind, amount) in enumerate(done):
        if kind == "pay":
            store.pay(own, amount, f"bank {n}", NOW, BY)
            left += amount
        elif kind == "click":
            source = n % 4
            event = click(1, id=f"{id_}:{n}", campaign_id=id_, price_micros=amount, source=f"{id_}-{source}")
            (result,) = ledger.book([event])
            assert result.charged_micros == min(amount, left)
            left, charged[source] = left - result.charged_micros, charged[source] + result.charged_micros
        else:
            refund(database, Clicks(source=f"{id_}-{amount}"), "test")
            left, charged[amount] = left + charged[amount], 0
        assert account(store, own).available_micros == left
