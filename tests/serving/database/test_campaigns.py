"""Campaigns in SQL: they are read back as stored, no change overwrites another, lists and snapshots are complete."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import Connection, text

from mechanism.errors import InputError
from serving.campaigns.snapshots import changes_since, snapshot
from serving.campaigns.storage import CampaignFilter, CampaignStore, NotFound, VersionConflict
from serving.campaigns.types import Campaign, CampaignState, Daypart, FrequencyCap, ReviewState, Spend, Targeting
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from tests.serving.database.samples import NOW, campaign, click, creative
from tests.support.postgres import PostgresServer

LATER = NOW + timedelta(hours=1)


@pytest.fixture
def store(database: Database) -> CampaignStore:
    return CampaignStore(database)


def test_a_campaign_is_read_back_as_it_was_stored(store: CampaignStore) -> None:
    full = campaign(
        daily_budget_micros=5_000_000,
        ends_at=datetime(2027, 1, 1, tzinfo=UTC),
        time_zone="Europe/Berlin",
        dayparts=(Daypart(days=(0, 1), from_hour=8, to_hour=20),),
        targeting=Targeting(countries=("DE",), keywords=("läufer", "🎽")),
        campaign_caps=(FrequencyCap(impressions=3, hours=24),),
    )
    stored = store.create(full, NOW)
    assert stored == store.get("c1") == store.campaign_of("c1-1") == full
    with pytest.raises(NotFound, match="c9"):
        store.get("c9")
    with pytest.raises(NotFound):
        store.campaign_of("c9-1")


def test_many_campaigns_are_stored_at_once_except_those_whose_ids_are_taken(
    store: CampaignStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.campaigns.storage.IDS_PER_QUERY", 2)
    store.create(campaign(1), NOW)
    new = [campaign(n) for n in (1, 2, 3, 4)]
    new += [campaign(5, creatives=(creative("x"), creative("c1-1"))), campaign(6, name="\ud800")]
    reported: list[dict[int, str]] = []

    def also(connection: Connection, faults: Mapping[int, InputError]) -> None:
        reported.append({index: fault.place for index, fault in faults.items()})

    store.create_all(new, LATER, also)
    assert reported == [{0: "id", 4: "creatives[1].id", 5: "campaign"}]
    assert [one.id for one in snapshot(database, LATER).campaigns] == ["c1", "c2", "c3", "c4"]
    assert store.get("c1").created_at == NOW
    assert (
        store.campaign_of("c4-1")
        == store.get("c4")
        == msgspec.structs.replace(campaign(4), created_at=LATER, updated_at=LATER)
    )
    assert [result.charged_micros for result in Ledger(database).book([click(1, campaign_id="c3")])] == [250_000]


def test_an_error_beside_many_campaigns_undoes_them(store: CampaignStore, database: Database) -> None:
    def also(connection: Connection, faults: Mapping[int, InputError]) -> None:
        raise InputError("answer", "", "it could not be stored")

    with pytest.raises(InputError, match="answer"):
        store.create_all([campaign(1), campaign(2)], NOW, also)
    assert snapshot(database, NOW).campaigns == ()
    store.create_all([], NOW, lambda connection, faults: None)
    assert store.create(campaign(1), NOW).version == 1


def test_advertisers_cannot_review_their_own_creatives(store: CampaignStore) -> None:
    approved = (creative("x", review=ReviewState.APPROVED), creative("y", review=ReviewState.APPROVED))
    stored = store.create(campaign(creatives=approved, version=7), NOW)
    assert [c.review for c in stored.creatives] == [ReviewState.PENDING] * 2
    assert stored.version == 1
    for name in ("x", "y"):
        reviewed = store.review(name, ReviewState.APPROVED, LATER, note="fine")
    assert [(c.review, c.review_note) for c in reviewed.creatives] == [(ReviewState.APPROVED, "fine")] * 2
    changed = (creative("x"), creative("y", title="Other"), creative("z", review=ReviewState.APPROVED))
    updated = store.update(msgspec.structs.replace(reviewed, creatives=changed), LATER)
    assert [c.review for c in updated.creatives] == [ReviewState.APPROVED, ReviewState.PENDING, ReviewState.PENDING]


def test_a_review_holds_for_the_reviewed_version_only(store: CampaignStore) -> None:
    stored = store.create(campaign(), NOW)
    store.update(msgspec.structs.replace(stored, creatives=(creative("c1-1", title="Sly"),)), LATER)
    with pytest.raises(VersionConflict):
        store.review("c1-1", ReviewState.APPROVED, LATER, version=stored.version)
    assert store.get("c1").creatives[0].review is ReviewState.PENDING


def test_of_two_changes_to_one_version_the_second_is_refused(store: CampaignStore) -> None:
    stored = store.create(campaign(), NOW)
    changed = store.update(msgspec.structs.replace(stored, bid_micros=1), LATER)
    assert (changed.version, changed.bid_micros, changed.updated_at, changed.created_at) == (2, 1, LATER, NOW)
    with pytest.raises(VersionConflict, match="version 2"):
        store.update(msgspec.structs.replace(stored, bid_micros=2), LATER)
    assert store.get("c1") == changed


def test_of_concurrent_changes_to_one_version_one_wins(store: CampaignStore) -> None:
    stored = store.create(campaign(), NOW)

    def change(bid: int) -> int:
        try:
            store.update(msgspec.structs.replace(stored, bid_micros=bid), LATER)
        except VersionConflict:
            return 0
        return bid

    with ThreadPoolExecutor(6) as threads:
        winners = [bid for bid in threads.map(change, range(1, 7)) if bid]
    assert [store.get("c1").bid_micros] == winners


def test_advertiser_currency_and_end_cannot_be_changed(store: CampaignStore) -> None:
    stored = store.create(campaign(), NOW)
    for change in ({"currency": "USD"}, {"advertiser_id": "a2"}):
        with pytest.raises(InputError, match="fixed"):
            store.update(msgspec.structs.replace(stored, **change), LATER)
    store.set_state("c1", CampaignState.ENDED, LATER)
    for state in (CampaignState.ACTIVE, CampaignState.PAUSED):
        with pytest.raises(InputError, match="ended for good"):
            store.set_state("c1", state, LATER)
    with pytest.raises(InputError, match="ended for good"):
        store.update(msgspec.structs.replace(store.get("c1"), state=CampaignState.ACTIVE), LATER)


def test_creative_ids_are_unique_across_campaigns_and_never_reused(store: CampaignStore) -> None:
    first = store.create(campaign(1, creatives=(creative("x"),)), NOW)
    with pytest.raises(InputError, match="another campaign"):
        store.create(campaign(2, creatives=(creative("x"),)), NOW)
    with pytest.raises(NotFound):
        store.get("c2")
    store.update(msgspec.structs.replace(first, creatives=()), LATER)
    with pytest.raises(InputError, match="another campaign"):
        store.create(campaign(2, creatives=(creative("x"),)), NOW)
    with pytest.raises(InputError, match="two creatives"):
        store.create(campaign(3, creatives=(creative("y"), creative("y"))), NOW)
    with pytest.raises(InputError, match="has this id"):
        store.create(campaign(1, creatives=()), NOW)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "a\0b"},
        {"name": ""},
        {"name": "\ud800"},
        {"name": "x" * 2_000},
        {"time_zone": "Europe/Atlantis"},
        {"time_zone": "../etc"},
        {"total_budget_micros": 2**63},
        {"bid_micros": -1},
        {"starts_at": datetime(2026, 1, 1)},
        {"creatives": (creative("a\0b"),)},
    ],
)
def test_values_that_no_database_can_store_are_bad_input(store: CampaignStore, bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        store.create(campaign(**bad), NOW)
    assert store.page(CampaignFilter()).items == ()


def test_lists_are_filtered(store: CampaignStore) -> None:
    store.create(campaign(1, name="Straße & 100% Wolle", category="wool"), NOW)
    store.create(campaign(2, name="Winter_Sale", advertiser_id="a2"), NOW)
    store.create(campaign(3, name="winter coats", state=CampaignState.PAUSED), NOW)

    def found(**wanted: object) -> set[str]:
        return {item.id for item in store.page(CampaignFilter(**wanted)).items}  # type: ignore[arg-type]

    assert found() == {"c1", "c2", "c3"}
    assert found(text="WINTER") == {"c2", "c3"}
    assert found(text="r_s") == {"c2"}
    assert found(text="0%") == {"c1"}
    assert found(text="STRASSE") == {"c1"}
    assert found(advertiser_id="a2") == {"c2"}
    assert found(state=CampaignState.PAUSED, text="winter") == {"c3"}
    assert found(category="wool") == {"c1"}


def test_pages_neither_skip_nor_repeat_while_campaigns_are_added(store: CampaignStore) -> None:
    for number in range(1, 8):  # c3 to c5 in the same moment
        store.create(campaign(number), NOW + timedelta(minutes=min(max(number, 3), 5)))
    seen: list[Campaign] = []
    cursor = ""
    for step in range(10):
        page = store.page(CampaignFilter(), cursor, limit=2)
        seen += page.items
        store.create(campaign(100 + step), LATER)
        cursor = page.cursor
        if not cursor:
            break
    assert [item.id for item in seen] == ["c7", "c6", "c5", "c4", "c3", "c2", "c1"]
    for bad in ("x", "WzFd", "é"):
        with pytest.raises(InputError, match="cursor"):
            store.page(CampaignFilter(), bad)
    with pytest.raises(InputError, match="limit"):
        store.page(CampaignFilter(), limit=0)
    with pytest.raises(InputError, match="NUL"):
        store.page(CampaignFilter(advertiser_id="\0"))


def test_a_snapshot_holds_the_live_campaigns_and_their_spend(store: CampaignStore, database: Database) -> None:
    store.create(campaign(1, time_zone="Pacific/Auckland"), NOW)
    store.create(campaign(2, state=CampaignState.PAUSED), NOW)
    store.create(campaign(3, state=CampaignState.ENDED), NOW)
    store.create(campaign(4, ends_at=NOW), NOW)
    yesterday = click(1, occurred_at=NOW - timedelta(days=1))
    Ledger(database).book([yesterday, click(2), click(3)])
    found = snapshot(database, NOW)
    assert {c.id for c in found.campaigns} == {"c1", "c2"}
    assert sorted(found.spends, key=lambda s: s.campaign_id) == [
        Spend(campaign_id="c1", total_micros=750_000, day="2026-11-25", day_micros=500_000),
        Spend(campaign_id="c2", total_micros=0, day="2026-11-24", day_micros=0),
    ]
    tomorrow = snapshot(database, NOW + timedelta(days=1))
    assert {s.day_micros for s in tomorrow.spends} == {0}


def test_changes_hold_what_was_written_since_the_cursor(store: CampaignStore, database: Database) -> None:
    for number in (1, 2, 3):
        store.create(campaign(number), NOW)
    cursor = snapshot(database, NOW).cursor
    assert changes_since(database, cursor, NOW).campaigns == ()
    assert changes_since(database, cursor, NOW).spends == ()
    store.set_state("c2", CampaignState.ENDED, LATER)
    Ledger(database).book([click(1, campaign_id="c3")])
    changes = changes_since(database, cursor, NOW)
    assert [(c.id, c.state) for c in changes.campaigns] == [("c2", CampaignState.ENDED)]
    assert [(s.campaign_id, s.total_micros) for s in changes.spends] == [("c3", 250_000)]
    following = changes_since(database, changes.cursor, NOW)
    assert (following.campaigns, following.spends) == ((), ())


def test_a_prolonged_campaign_comes_back_with_its_spend(store: CampaignStore, database: Database) -> None:
    """A router drops a campaign past its end, and its spend with it."""
    stored = store.create(campaign(1, ends_at=NOW, total_budget_micros=300_000), NOW)
    Ledger(database).book([click(1, occurred_at=NOW - timedelta(hours=2))])
    cursor = snapshot(database, LATER).cursor
    store.update(msgspec.structs.replace(stored, ends_at=LATER + timedelta(days=1)), LATER)
    changes = changes_since(database, cursor, LATER)
    assert [c.id for c in changes.campaigns] == ["c1"]
    assert [(s.campaign_id, s.total_micros) for s in changes.spends] == [("c1", 250_000)]


def test_a_change_that_commits_late_is_not_missed(postgres: PostgresServer) -> None:
    # The transaction that starts first commits last: its number is lower than the highest one the reader has seen. On
    # SQLite writers queue, so none commits out of order.
    database = Database(postgres.create("late", template="migrated"))
    store = CampaignStore(database)
    for number in (1, 2):
        store.create(campaign(number), NOW)
    cursor = snapshot(database, NOW).cursor
    with database.engine.begin() as slow:
        own = "(pg_current_xact_id()::text)::bigint"
        slow.execute(text(f"UPDATE campaigns SET changed_in = {own} WHERE id = 'c1'"))
        store.set_state("c2", CampaignState.PAUSED, LATER)
        changes = changes_since(database, cursor, NOW)
        assert [c.id for c in changes.campaigns] == ["c2"]
    assert "c1" in [c.id for c in changes_since(database, changes.cursor, NOW).campaigns]
    database.close()
