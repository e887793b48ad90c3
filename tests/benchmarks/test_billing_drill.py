"""The billing drill's parts: its traffic, its reference, its comparison, and a PostgreSQL that is killed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from benchmarks.serving.billing import check
from benchmarks.serving.billing_check import Terms, expected
from benchmarks.serving.billing_traffic import Plan, charge_file, write_events
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.ledger.charging import Ledger
from tests.serving.database.samples import NOW, campaign, click
from tests.support import postgres as postgres_server
from tests.support.postgres import PostgresMissing, PostgresServer


@pytest.fixture
def plan(tmp_path: Path, database: Database) -> Plan:
    made = write_events(tmp_path, events=200, writers=2, seed=3)
    for booked in made.campaigns:
        CampaignStore(database).create(booked, NOW)
    return made


def test_the_traffic_has_the_planned_duplicates_and_late_clicks(plan: Plan) -> None:
    lines = [json.loads(line) for path in plan.files for line in path.read_text().splitlines()]
    seen = Counter(line["id"] for line in lines)
    assert (len(seen), len(lines), plan.duplicates, plan.late) == (200, 240, 40, 20)
    assert max(seen.values()) == 2
    by_number = sorted({line["id"]: line for line in lines}.values(), key=lambda line: int(line["id"][6:]))
    moments = [line["occurred_at"] for line in by_number]
    assert moments != sorted(moments)


def test_the_ledger_agrees_with_the_reference_after_a_replay(plan: Plan, url: str) -> None:
    for number in (1, 0, 1):
        charge_file(url, plan.files[number], number)
    found = check(url, plan)
    assert found.exact
    assert 0 < found.charged_micros == found.expected_micros
    prices = sum(json.loads(line)["price_micros"] for path in plan.files for line in path.read_text().splitlines())
    assert found.charged_micros < prices * 0.8  # budgets bind, or the drill shows nothing


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE charges SET charged_micros = charged_micros + 1 WHERE id = 'click-7'",
        "UPDATE campaign_spend SET total_micros = total_micros + 1 WHERE campaign_id = 'campaign-1'",
        "UPDATE campaign_days SET micros = micros - 1 WHERE campaign_id = 'campaign-0'",
        "UPDATE advertiser_totals SET charged_micros = charged_micros + 1 WHERE advertiser_id = 'advertiser-1'",
        "UPDATE consumer_offsets SET next_offset = next_offset - 1 WHERE partition = 0",
        "UPDATE report_counters SET clicks = clicks + 1 WHERE campaign_id = 'campaign-0'",
        "DELETE FROM charges WHERE id = 'click-9' OR charged_micros = 0",
    ],
)
def test_the_comparison_finds_each_difference(plan: Plan, url: str, database: Database, wrong: str) -> None:
    for number, path in enumerate(plan.files):
        charge_file(url, path, number)
    database.transact(lambda c: c.execute(text(wrong)))
    assert not check(url, plan).exact


def test_the_reference_caps_each_day_and_the_whole(tmp_path: Path) -> None:
    moments = ["2026-11-20T07:59:59Z", "2026-11-20T08:00:00Z", "2026-11-20T09:00:00Z"]
    events = [
        {"id": f"k{n % 4}", "campaign_id": "c", "price_micros": 100, "occurred_at": moments[n % 3], "invalid": bad}
        for n, bad in enumerate(["", "", "", "bot"])
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(json.dumps(event) for event in [*events, events[0]]) + "\n")
    for daily, total, charged in ((None, None, 300), (150, None, 250), (150, 240, 240), (None, 90, 90), (0, None, 0)):
        found = expected({"c": Terms("a", "America/Los_Angeles", daily, total)}, [path])
        assert (found.campaigns, found.advertisers, found.records, found.clicks) == (
            {"c": charged},
            {"a": charged},
            4,
            3,
        )


def test_charges_survive_a_killed_server() -> None:
    try:
        server = PostgresServer()
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with server:
        migrate(server.url())
        database = Database(server.url(), retry_s=30)
        CampaignStore(database).create(campaign(1), NOW)
        ledger = Ledger(database)
        for number, hard in enumerate((False, True)):
            ledger.book([click(number)])
            server.kill(hard=hard)
            with pytest.raises(OperationalError), database.read():
                pytest.fail("the killed server answers")
            server.start()
        results = [ledger.book([click(number)])[0] for number in range(3)]
        assert [result.new for result in results] == [False, False, True]
        database.close()
    assert not server.folder.exists()


def test_a_missing_server_is_reported_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres_server, "DEBIAN", tmp_path)
    with pytest.raises(PostgresMissing, match="apt-get install postgresql"):
        PostgresServer()
