"""The durable queue and its delivery: what was answered is on disk, and reaches the ledger once, whatever is killed."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving.campaigns.types import Campaign, Creative
from serving.charging import AUCTION, CHARGE, Charger
from serving.spool import Spool
from serving.store.auctions import Auction, Entry
from serving.store.campaigns import CampaignStore
from serving.store.engine import Database
from serving.store.events import Charged, ChargeEvent
from serving.store.migrations import migrate
from serving.store.reports import Query, charges_of, report

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
REPOSITORY = Path(__file__).parents[2]


def event(number: int, campaign: str = "c1", **options: object) -> ChargeEvent:
    usual = {
        "id": f"k{number}", "auction_id": f"a{number}", "campaign_id": campaign, "creative_id": "c1-1",
        "price_micros": 1_000, "currency": "EUR", "occurred_at": NOW,
    }  # fmt: skip
    return ChargeEvent(**usual | options)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    migrate(url)
    database = Database(url)
    creative = Creative(id="c1-1", title="Brand", landing_url="https://brand.example/")
    campaign = Campaign(
        id="c1", advertiser_id="a", name="n", category="", creatives=(creative,), bid_micros=1, currency="EUR",
        starts_at=NOW, created_at=NOW, updated_at=NOW,
    )  # fmt: skip
    CampaignStore(database).create(campaign, NOW)
    yield database
    database.close()


def deliver(spool: Spool, database: Database) -> list[Charged]:
    told: list[Charged] = []
    charger = Charger(spool, database, lambda _, outcome: told.append(outcome))
    while charger.deliver():
        pass
    return told


def test_what_was_put_survives_its_process(tmp_path: Path) -> None:
    """A click that was answered is there after a kill -9 at once after the answer."""
    script = (
        "import asyncio, os, signal, sys\nfrom pathlib import Path\nfrom serving.spool import Spool\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_spool import CHARGE, event\n"
        "async def main():\n    spool = Spool(Path(sys.argv[1]))\n"
        "    await asyncio.gather(*(spool.put_durably(CHARGE, event(n)) for n in range(50)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\nasyncio.run(main())\n"
    )
    path = tmp_path / "spool.sqlite3"
    result = subprocess.run([sys.executable, "-c", script, str(path)], cwd=REPOSITORY, check=False)
    assert result.returncode == -signal.SIGKILL
    spool = Spool(path)
    assert spool.depth == 50
    assert len(spool.batch(100)) == 50
    spool.flush()
    spool.close()


def test_delivery_is_once_however_often_it_runs(tmp_path: Path, database: Database) -> None:
    spool = Spool(tmp_path / "spool.sqlite3")
    auction = Auction(
        id="a1", occurred_at=NOW, placement="chat", model_version="m7",
        entries=(Entry(campaign_id="c1", creative_id="c1-1", shown=True),),
    )  # fmt: skip
    for _ in range(3):
        spool.put(AUCTION, auction)
        spool.put(CHARGE, event(1, placement="chat"))
    spool.flush()
    assert [c.charged_micros for c in deliver(spool, database)] == [1_000]
    (line,) = report(database, Query())
    assert (line.auctions, line.impressions, line.clicks, line.revenue_micros) == (1, 1, 1, 1_000)
    (record,) = charges_of(database, auction_id="a1").items
    assert record.model_version == "m7"  # the click's token does not have it: the auction has
    assert spool.depth == 0
    spool.close()


def test_a_record_that_the_ledger_refuses_is_kept_aside_and_delays_nobody(tmp_path: Path, database: Database) -> None:
    spool = Spool(tmp_path / "spool.sqlite3")
    for number in range(5):
        spool.put(CHARGE, event(number, campaign="unknown" if number in (0, 3) else "c1"))
    spool.put(CHARGE, event(9, currency="USD"))
    spool.flush()
    assert len(deliver(spool, database)) == 3
    assert spool.depth == 0
    spool.close()
    with sqlite3.connect(tmp_path / "spool.sqlite3") as connection:
        reasons = [reason for (reason,) in connection.execute("SELECT reason FROM refused")]
    connection.close()
    assert len(reasons) == 3
    assert all("campaign" in reason for reason in reasons)


def test_a_stop_delivers_what_is_queued(tmp_path: Path, database: Database) -> None:
    spool = Spool(tmp_path / "spool.sqlite3")
    charger = Charger(spool, database, lambda *_: None)
    charger.start()
    for number in range(700):
        spool.put(CHARGE, event(number))
    spool.flush()
    charger.stop(within_s=30)
    assert (spool.depth, report(database, Query())[0].clicks) == (0, 700)
    spool.close()


def test_a_full_disk_is_told_to_who_waits_and_written_later(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite3")
    other = sqlite3.connect(tmp_path / "spool.sqlite3", isolation_level=None)
    other.execute("ALTER TABLE spool RENAME TO elsewhere")

    async def put() -> None:
        with pytest.raises(sqlite3.Error):
            await spool.put_durably(CHARGE, event(1))
        other.execute("ALTER TABLE elsewhere RENAME TO spool")
        await spool.put_durably(CHARGE, event(2))

    asyncio.run(put())
    spool.flush()
    assert [b"k1" in s.body or b"k2" in s.body for s in spool.batch(9)] == [True, True]
    other.close()
    spool.close()
