"""The ledger: a click is charged once whoever reports it how often, and totals are the sums of their charges."""

from __future__ import annotations

import multiprocessing
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from serving.ledger import Ledger
from serving.tokens import Click


def click(auction: int, ad: int = 1, price: int = 250_000) -> Click:
    return Click(f"auction-{auction}", f"A{ad}", price, "EUR", 2**40)


def test_sixteen_threads_charge_a_click_once(tmp_path: Path) -> None:
    ledger, gate = Ledger(tmp_path / "ledger.sqlite3"), threading.Barrier(16)

    def charge(_: int) -> bool:
        gate.wait()
        return ledger.charge(click(1), "Brand")

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(charge, range(16))) == 1
    report = ledger.report()
    assert (report.revenue_micros, report.clicks, len(report.charges)) == ({"EUR": 250_000}, 1, 1)
    ledger.close()


def _charge_all(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(25):
        ledger.charge(click(number, price=number + 1), "Brand")
    ledger.close()


def test_processes_share_one_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    processes = [multiprocessing.get_context("spawn").Process(target=_charge_all, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    ledger = Ledger(path)
    assert ledger.report().revenue_micros == {"EUR": sum(range(1, 26))}
    ledger.close()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(0, 10**12)), max_size=25))
def test_totals_are_the_sums_of_the_first_charges(clicks: list[tuple[int, int, int]]) -> None:
    first: dict[tuple[int, int], int] = {}
    owed: dict[str, int] = defaultdict(int)
    with TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite3")
        for auction, ad, price in clicks:
            new = ledger.charge(click(auction, ad, price), f"Brand{ad}")
            assert new == ((auction, ad) not in first)
            if new:
                first[auction, ad] = price
                owed[f"Brand{ad}"] += price
        report = ledger.report()
        assert {a.advertiser: a.owed_micros for a in report.accounts} == owed
        assert report.revenue_micros == ({"EUR": sum(first.values())} if first else {})
        assert report.clicks == len(first) == sum(a.clicks for a in report.accounts)
        assert sorted(c.amount_micros for c in report.charges) == sorted(first.values())
        ledger.close()


def test_a_charge_without_its_total_is_taken_back(tmp_path: Path) -> None:
    """Both are one transaction: when the account cannot be written, no charge stays behind."""
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE accounts RENAME TO elsewhere"))
    with pytest.raises(SQLAlchemyError):
        ledger.charge(click(1), "Brand")
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM charges")).scalar_one() == 0
        connection.execute(text("ALTER TABLE elsewhere RENAME TO accounts"))
    engine.dispose()
    assert ledger.charge(click(1), "Brand")
    ledger.close()


def test_charges_of_one_auction_or_click_can_be_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    for auction, ad in ((1, 1), (1, 2), (2, 1)):
        ledger.charge(click(auction, ad), "Brand")
    assert {c.click_id for c in ledger.report(auction_id="auction-1").charges} == {"auction-1:A1", "auction-1:A2"}
    assert [c.click_id for c in ledger.report(click_id="auction-2:A1").charges] == ["auction-2:A1"]
    assert len(ledger.report(limit=2).charges) == 2
    ledger.close()
