"""API keys: shown once, stored as a keyed hash, bound to a role, rotated with an overlap, revoked for good."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from mechanism.errors import ConfigError, InputError
from serving.accounts.keys import BOOTSTRAP_VARIABLE, AccountStore, Role
from serving.campaigns.changes import PLATFORM, Actor, Subject, history
from serving.database.engine import Database
from tests.serving.database.samples import NOW

SECRET, OTHER = b"a secret of the tests, long enough for one", b"another secret of the tests, as long as it"


@pytest.fixture
def accounts(database: Database) -> AccountStore:
    return AccountStore(database, [SECRET])


def elsewhere(database: Database, *secrets: bytes) -> AccountStore:
    """The keys as another router reads them, with an empty cache."""
    return AccountStore(database, secrets or [SECRET])


def test_a_key_is_found_by_its_secret_alone(accounts: AccountStore, database: Database) -> None:
    issued = accounts.issue(Role.ADVERTISER, "Brand's own", NOW, advertiser_id="a1")
    found = accounts.find(issued.secret, NOW)
    assert found is not None
    assert (found.id, found.role, found.advertiser_id) == (issued.key.id, Role.ADVERTISER, "a1")
    for wrong in (issued.secret + "x", issued.secret[:-1], "", "x" * 50, "x" * 5_000, "é" * 40):
        assert accounts.find(wrong, NOW) is None
    assert accounts.issue(Role.ADMIN, "boss", NOW).secret != issued.secret


def test_the_secret_is_neither_in_the_database_nor_in_a_repr(accounts: AccountStore, database: Database) -> None:
    issued = accounts.issue(Role.PUBLISHER, "site", NOW)
    with database.read() as connection:
        stored = repr(connection.execute(text("SELECT * FROM api_keys")).all())
    assert issued.secret[4:20] not in stored + repr(issued) + repr(accounts.keys())
    assert elsewhere(database, OTHER).find(issued.secret, NOW) is None  # the hash is keyed


def test_advertisers_keys_and_no_others_name_an_advertiser(accounts: AccountStore) -> None:
    for role, advertiser in ((Role.ADVERTISER, ""), (Role.VIEWER, ""), (Role.ADMIN, "a1"), (Role.PUBLISHER, "a1")):
        remedy = "no advertiser: leave it out" if advertiser else "an advertiser: give its id"
        with pytest.raises(InputError, match=f"advertiser_id.*{role}.*{remedy}"):
            accounts.issue(role, "x", NOW, advertiser_id=advertiser)
    assert accounts.keys() == []


def test_a_rotated_key_works_until_the_overlap_ends(accounts: AccountStore, database: Database) -> None:
    old = accounts.issue(Role.ADVERTISER, "x", NOW, advertiser_id="a1")
    new = accounts.rotate(old.key.id, timedelta(hours=1), NOW)
    assert (new.key.role, new.key.advertiser_id) == (Role.ADVERTISER, "a1")
    before, after = NOW + timedelta(minutes=59), NOW + timedelta(hours=1)
    assert accounts.find(old.secret, before) is not None
    assert accounts.find(old.secret, after) is None
    assert accounts.find(new.secret, after) is not None
    with pytest.raises(InputError, match="no valid key has this id"):
        accounts.rotate(old.key.id, timedelta(0), after)
    with pytest.raises(InputError, match="overlap"):
        accounts.rotate(new.key.id, timedelta(days=1_000), after)


def test_rotation_does_not_extend_the_expiry(accounts: AccountStore) -> None:
    end = NOW + timedelta(minutes=5)
    old = accounts.issue(Role.ADMIN, "x", NOW, expires_at=end)
    new = accounts.rotate(old.key.id, timedelta(days=1), NOW)
    assert accounts.find(old.secret, end) is None
    assert accounts.find(new.secret, end) is None
    assert accounts.find(new.secret, NOW) is not None


def test_a_revoked_key_is_refused_for_good(accounts: AccountStore, database: Database) -> None:
    issued = accounts.issue(Role.ADMIN, "x", NOW)
    assert accounts.find(issued.secret, NOW) is not None
    revoked = accounts.revoke(issued.key.id, NOW)
    assert revoked.revoked_at == NOW
    assert accounts.find(issued.secret, NOW) is None
    assert elsewhere(database).find(issued.secret, NOW) is None
    assert accounts.revoke(issued.key.id, NOW + timedelta(days=1)).revoked_at == NOW
    with pytest.raises(InputError, match="no key has this id"):
        accounts.revoke("key_none", NOW)


def test_the_last_use_is_recorded_once_a_minute(accounts: AccountStore, database: Database) -> None:
    issued = accounts.issue(Role.ADMIN, "x", NOW)
    uses = [0, 30, 61]
    recorded = []
    for seconds in uses:
        elsewhere(database).find(issued.secret, NOW + timedelta(seconds=seconds))
        recorded.append(accounts.keys()[0].last_used_at)
    assert recorded == [NOW, NOW, NOW + timedelta(seconds=61)]


def test_keys_are_rehashed_when_the_hash_secret_is_replaced(accounts: AccountStore, database: Database) -> None:
    issued = accounts.issue(Role.ADMIN, "x", NOW)
    assert elsewhere(database, OTHER, SECRET).find(issued.secret, NOW) is not None
    assert elsewhere(database, OTHER).find(issued.secret, NOW) is not None
    assert elsewhere(database, SECRET).find(issued.secret, NOW) is None


def test_lookups_are_cached_until_the_key_expires(accounts: AccountStore, database: Database) -> None:
    issued = accounts.issue(Role.ADMIN, "x", NOW, expires_at=NOW + timedelta(seconds=3))
    assert accounts.cached(issued.secret, NOW) is None
    accounts.find(issued.secret, NOW)
    assert accounts.cached(issued.secret, NOW) is not None
    assert accounts.cached(issued.secret, NOW + timedelta(seconds=3)) is None


def test_the_environment_gives_the_first_administrator_key(accounts: AccountStore, database: Database) -> None:
    assert accounts.bootstrap({}, NOW) is None
    first, second = {BOOTSTRAP_VARIABLE: "f" * 40}, {BOOTSTRAP_VARIABLE: "s" * 40}
    key = accounts.bootstrap(first, NOW)
    assert key == elsewhere(database).bootstrap(first, NOW)
    found = elsewhere(database).find("f" * 40, NOW)
    assert found is not None
    assert found.role is Role.ADMIN
    rotated = accounts.rotate(found.id, timedelta(days=1), NOW)
    accounts.bootstrap(second, NOW)
    assert elsewhere(database).find("f" * 40, NOW) is None
    assert elsewhere(database).find("s" * 40, NOW) is not None
    assert elsewhere(database).find(rotated.secret, NOW) is not None
    for short in ("short", "é" * 40, ""):
        with pytest.raises(ConfigError, match=BOOTSTRAP_VARIABLE) as raised:
            accounts.bootstrap({BOOTSTRAP_VARIABLE: short}, NOW)
        assert not short or short not in str(raised.value)


def test_a_revoked_environment_key_stays_revoked(accounts: AccountStore, database: Database) -> None:
    environment = {BOOTSTRAP_VARIABLE: "f" * 40}
    key = accounts.bootstrap(environment, NOW)
    assert key is not None
    accounts.revoke(key.id, NOW)
    accounts.bootstrap(environment, NOW)
    assert elsewhere(database).find("f" * 40, NOW) is None


def test_the_history_has_the_keys_of_the_environment(accounts: AccountStore, database: Database) -> None:
    for secret in ("f" * 40, "f" * 40, "g" * 40):
        accounts.bootstrap({BOOTSTRAP_VARIABLE: secret}, NOW)
    new, revoked, old = history(database, subject=Subject.KEY).items
    assert {one.by for one in (new, revoked, old)} == {PLATFORM}
    assert [change.field for change in revoked.fields] == ["revoked_at"]
    assert old.subject_id == revoked.subject_id != new.subject_id
    assert old.fields == new.fields


def test_the_history_names_who_issued_rotated_and_revoked_a_key(accounts: AccountStore, database: Database) -> None:
    boss = Actor(role="admin", key_id="key_1", name="Boss")
    issued = accounts.issue(Role.VIEWER, "Ann", NOW, advertiser_id="a1", by=boss)
    rotated = accounts.rotate(issued.key.id, timedelta(hours=1), NOW, boss)
    accounts.revoke(rotated.key.id, NOW, boss)
    accounts.revoke(rotated.key.id, NOW + timedelta(hours=1), boss)
    accounts.open_session(NOW)
    found = history(database).items
    assert [(one.subject, one.advertiser_id, one.by) for one in found] == [(Subject.KEY, "a1", boss)] * 4
    revoked, new, old, made = [{change.field: (change.old, change.new) for change in one.fields} for one in found]
    assert made == new == {"role": (None, "viewer"), "label": (None, "Ann")}
    assert old == {"expires_at": (None, "2026-11-24T13:00:00Z")}
    assert revoked == {"revoked_at": (None, "2026-11-24T12:00:00Z")}
    assert [one.subject_id for one in found] == [rotated.key.id, rotated.key.id, issued.key.id, issued.key.id]
    assert accounts.get(rotated.key.id) in accounts.keys("a1")
    assert not any(secret in repr(found) for secret in (issued.secret, rotated.secret))
