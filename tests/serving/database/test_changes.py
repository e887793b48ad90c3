"""The history of changes: who, when, which fields, from what to what; written with the change and never altered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mechanism.errors import InputError
from serving.accounts.advertisers import AdvertiserStore
from serving.campaigns.changes import (
    PLATFORM,
    Actor,
    Change,
    FieldChange,
    Subject,
    campaign_changes,
    changed_fields,
    history,
)
from serving.campaigns.funds import Account
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import CampaignState, ReviewState
from serving.database.engine import Database
from tests.serving.database.samples import NOW, campaign, creative

ANN = Actor(role="advertiser", key_id="key_1", name="Ann")
BOSS = Actor(role="admin", key_id="key_2", name="Boss")


@pytest.fixture
def store(database: Database) -> CampaignStore:
    made = CampaignStore(database)
    made.create(campaign(1), NOW, by=ANN)
    return made


def of(database: Database, **filters: Any) -> list[Change]:
    return list(history(database, **filters).items)


def fields(change: Change) -> dict[str, tuple[Any, Any]]:
    return {one.field: (one.old, one.new) for one in change.fields}


def test_a_new_campaign_is_recorded_with_what_it_begins_with(store: CampaignStore, database: Database) -> None:
    (made,) = of(database)
    assert (made.subject, made.subject_id, made.advertiser_id) == (Subject.CAMPAIGN, "c1", "a1")
    assert (made.by, made.changed_at) == (ANN, NOW)
    found = fields(made)
    assert found["bid_micros"] == (None, 250_000)
    assert found["creatives"] == (None, ["c1-1"])
    assert found["creatives[c1-1].title"] == (None, "Brand c1-1")
    assert "daily_budget_micros" not in found


def test_changed_fields_have_their_old_and_new_values(store: CampaignStore, database: Database) -> None:
    later = NOW + timedelta(hours=1)
    old = store.get("c1")
    changed = (creative("c1-1", title="Better"), creative("c1-2"))
    store.update(msgspec.structs.replace(old, bid_micros=300_000, creatives=changed), later, by=ANN)
    store.review("c1-1", ReviewState.APPROVED, later, note="fine", by=BOSS)
    store.set_state("c1", CampaignState.PAUSED, later, by=ANN)
    paused, reviewed, updated, _ = of(database, subject=Subject.CAMPAIGN, subject_id="c1")
    assert (fields(paused), paused.by) == ({"state": ("active", "paused")}, ANN)
    assert reviewed.by == BOSS
    assert fields(reviewed) == {
        "creatives[c1-1].review": ("pending", "approved"),
        "creatives[c1-1].review_note": ("", "fine"),
    }
    assert updated.changed_at == later
    found = fields(updated)
    assert found["bid_micros"] == (250_000, 300_000)
    assert found["creatives"] == (["c1-1"], ["c1-1", "c1-2"])
    assert found["creatives[c1-1].title"] == ("Brand c1-1", "Better")
    assert found["creatives[c1-2].title"] == (None, "Brand c1-2")
    assert not {"version", "updated_at", "creatives[c1-1].landing_url"} & found.keys()


def test_a_change_without_an_effect_or_that_fails_is_not_recorded(store: CampaignStore, database: Database) -> None:
    store.set_state("c1", CampaignState.ACTIVE, NOW)

    def fail(*_: object) -> None:
        raise InputError("x", "", "x")

    with pytest.raises(InputError):
        store.set_state("c1", CampaignState.PAUSED, NOW, also=fail)
    assert len(of(database)) == 1


def test_accounts_have_a_history_as_well(database: Database, in_doubt: Callable[[Database], None]) -> None:
    store, own = AdvertiserStore(database), Account("a1", "EUR")
    in_doubt(database)
    store.set_limit(own, 5, NOW, BOSS)
    store.pay(own, 7, "bank 1", NOW, BOSS)
    store.pay(own, 7, "bank 1", NOW, ANN)
    store.set_limit(own, 0, NOW, BOSS)
    store.set_limit(own, 0, NOW, BOSS)
    found = of(database, subject=Subject.ACCOUNT, subject_id="EUR", advertiser_id="a1")
    assert [fields(one) for one in found] == [
        {"credit_limit_micros": (5, 0)},
        {"payments[bank 1]": (None, 7)},
        {"credit_limit_micros": (None, 5)},
    ]
    assert {one.by for one in found} == {BOSS}


def test_histories_are_filtered_and_paged(store: CampaignStore, database: Database) -> None:
    store.create(campaign(2, advertiser_id="b"), NOW)
    store.set_state("c1", CampaignState.PAUSED, NOW)
    assert [one.subject_id for one in of(database, advertiser_id="b")] == ["c2"]
    assert [one.by for one in of(database, advertiser_id="b")] == [PLATFORM]
    first = history(database, limit=2)
    assert [one.subject_id for one in first.items] == ["c1", "c2"]
    rest = history(database, cursor=first.cursor, limit=2)
    assert ([one.subject_id for one in rest.items], rest.cursor) == (["c1"], "")


@pytest.mark.parametrize("change", ["UPDATE changes SET by_name = 'Bob'", "DELETE FROM changes", "TRUNCATE changes"])
def test_the_database_refuses_to_change_the_history(store: CampaignStore, database: Database, change: str) -> None:
    if change.startswith("TRUNCATE") and database.is_sqlite:
        pytest.skip("SQLite has no TRUNCATE")
    with pytest.raises(DBAPIError, match="append-only"):
        database.transact(lambda connection: connection.execute(text(change)))
    assert len(of(database)) == 1


values = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2))


@given(values, values)
def test_applying_the_changes_to_the_old_gives_the_new(old: dict[str, int], new: dict[str, int]) -> None:
    found = changed_fields(old, new)
    applied = {**old, **{one.field: one.new for one in found}}
    assert {name: value for name, value in applied.items() if value is not None} == new
    assert all(one.old == old.get(one.field) and one.old != one.new for one in found)


def test_the_same_campaign_has_no_changes() -> None:
    assert campaign_changes(campaign(1), msgspec.structs.replace(campaign(1), version=2)) == ()
    assert campaign_changes(campaign(1), campaign(1, bid_micros=1)) == (FieldChange("bid_micros", 250_000, 1),)
