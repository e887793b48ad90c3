"""API keys and their roles. A key is shown once, stored as a keyed hash, rotated with an overlap, and revoked.

A key has 256 random bits, so it cannot be guessed, and a slow password hash would only slow down every request. One
HMAC-SHA256 is enough: a reader of the table learns no key, and without the secret, which is not in the database, can
neither test a key against the table nor add a row for a key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, RowMapping, Select, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import ConfigError, InputError
from serving.campaigns.changes import PLATFORM, Actor, Subject, changed_fields, record_change
from serving.database.columns import checked_moment, checked_text
from serving.database.engine import Database
from serving.database.schema import api_keys, publishers

log = structlog.get_logger(__name__)

BOOTSTRAP_VARIABLE = "LLM_AUCTION_ADMIN_KEY"
BOOTSTRAP_ID = "bootstrap_"
SESSION_ID = "session_"
SESSION_LIFE = timedelta(hours=12)
KEY_FILE = "admin-key"
SHORTEST_KEY, LONGEST_KEY = 32, 256
PREFIX = "lla_"
DOMAIN = b"llm-auction api key 1\0"
CACHE_S = 5.0
RECORD_USE_EVERY = timedelta(minutes=1)
LONGEST_OVERLAP = timedelta(days=90)


class Role(StrEnum):
    """What a key allows.

    Everything; managing one advertiser's campaigns and keys; reading what that advertiser reads; requesting answers
    with ads.
    """

    ADMIN = "admin"
    ADVERTISER = "advertiser"
    VIEWER = "viewer"
    PUBLISHER = "publisher"


OF_ADVERTISERS = (Role.ADVERTISER, Role.VIEWER)
"""The roles whose keys belong to an advertiser: its managers and its viewers."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is listed, without its secret.

    Only the keys of an advertiser's users have an `advertiser_id`, only a publisher's a `publisher_id`. A publisher's
    key without one asks on placements of no publisher, and no publisher is paid. The `label` names who uses the key.
    """

    id: str
    role: Role
    advertiser_id: str
    publisher_id: str = ""
    label: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def valid(self, now: datetime) -> bool:
        """Return whether the key is accepted at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key with its `secret`, which is stored nowhere and not shown again."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        return f"IssuedKey(key={self.key!r}, secret=<withheld>)"


class AccountStore:
    """The keys of one database.

    `hash_secrets` are kept outside the database, newest first. A key that was hashed with an older secret is hashed
    with the newest one when it is next used, so that a secret can be replaced without replacing the keys.
    """

    def __init__(self, database: Database, hash_secrets: Sequence[bytes]) -> None:
        if not hash_secrets or any(len(secret) < SHORTEST_KEY for secret in hash_secrets):
            raise ConfigError("hash_secrets", f"<{len(hash_secrets)}>", f"give secrets of {SHORTEST_KEY} bytes or more")
        self._database = database
        self._secrets = tuple(hash_secrets)
        self._cache: dict[bytes, tuple[float, ApiKey]] = {}

    def issue(
        self,
        role: Role,
        label: str,
        now: datetime,
        *,
        advertiser_id: str = "",
        publisher_id: str = "",
        expires_at: datetime | None = None,
        by: Actor = PLATFORM,
    ) -> IssuedKey:
        """Create a key; its history names who did it.

        Raises:
            InputError: if an advertiser's key names no advertiser, or another key names one; if a key names a publisher
                that there is not, or is not a publisher's.
        """
        if publisher_id and role is not Role.PUBLISHER:
            raise InputError("publisher_id", publisher_id, "only a publisher's key names its publisher")
        if (role in OF_ADVERTISERS) != bool(advertiser_id):
            owner = "an advertiser: give its id" if role in OF_ADVERTISERS else "no advertiser: leave it out"
            remedy = f"a key of role {role} belongs to {owner}"
            raise InputError("advertiser_id", advertiser_id, remedy)
        if expires_at is not None:
            checked_moment("expires_at", expires_at)
        key = _new(role, checked_text("label", label), advertiser_id, now, expires_at, publisher_id=publisher_id)
        secret = PREFIX + secrets.token_urlsafe(32)

        def work(connection: Connection) -> None:
            known = select(publishers.c.id).where(publishers.c.id == publisher_id)
            if publisher_id and connection.execute(known).first() is None:
                raise InputError("publisher_id", publisher_id, "no publisher has this id: create it first")
            self._insert(connection, key, secret)
            _record(connection, None, key, by, now)

        self._database.transact(work)
        return IssuedKey(key=key, secret=secret)

    def open_session(self, now: datetime) -> IssuedKey:
        """Create an administrator's key for one browser, which expires after `SESSION_LIFE`."""
        key = _new(Role.ADMIN, "console session", "", now, now + SESSION_LIFE, prefix=SESSION_ID)
        secret = PREFIX + secrets.token_urlsafe(32)
        self._database.transact(lambda connection: self._insert(connection, key, secret))
        return IssuedKey(key=key, secret=secret)

    def find(self, secret: str, now: datetime) -> ApiKey | None:
        """Return the key whose secret this is; None if there is none, or it is not valid.

        The result is cached for five seconds, during which other routers may still accept a revoked key. The use is
        recorded at most once a minute.
        """
        known = self.cached(secret, now)
        if known is not None:
            return known
        digests = self._digests(secret)
        if not digests:
            return None
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.digest.in_(digests))).mappings().first()
        key = None if row is None else _key(row)
        if row is None or key is None or not key.valid(now):
            self._cache.pop(digests[0], None)
            return None
        self._record_use(key, digests[0], row["digest"] != digests[0], now)
        if len(self._cache) >= 10_000:
            self._cache.clear()
        self._cache[digests[0]] = (time.monotonic(), key)
        return key

    def cached(self, secret: str, now: datetime, within_s: float = CACHE_S) -> ApiKey | None:
        """Return the same from the cache alone: None also if the key was not looked up in the last `within_s` seconds.

        More than the default is for times without the database, when revocations cannot be read.
        """
        digests = self._digests(secret)
        looked_up_at, key = self._cache.get(digests[0], (0.0, None)) if digests else (0.0, None)
        if key is None or time.monotonic() - looked_up_at >= within_s or not key.valid(now):
            return None
        return key

    def rotate(self, key_id: str, overlap: timedelta, now: datetime, by: Actor = PLATFORM) -> IssuedKey:
        """Create a key with the rights of an old one, which expires after `overlap` if it does not expire earlier.

        Raises:
            InputError: if the old key is not valid, or the overlap is not 0 to 90 days.
        """
        if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
            raise InputError("overlap", str(overlap), f"give a time from 0 to {LONGEST_OVERLAP.days} days")
        secret = PREFIX + secrets.token_urlsafe(32)

        def work(connection: Connection) -> ApiKey:
            row = connection.execute(_by_id(key_id).with_for_update()).mappings().first()
            if row is None or not _key(row).valid(now):
                raise InputError("key", key_id, "no valid key has this id: issue a new one")
            old = _key(row)
            until = now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(expires_at=until))
            new = _new(old.role, old.label, old.advertiser_id, now, old.expires_at, publisher_id=old.publisher_id)
            self._insert(connection, new, secret)
            _record(connection, old, msgspec.structs.replace(old, expires_at=until), by, now)
            _record(connection, None, new, by, now)
            return new

        key = self._database.transact(work)
        self._cache.clear()
        return IssuedKey(key=key, secret=secret)

    def get(self, key_id: str) -> ApiKey | None:
        """Return the key with this id, valid or not."""
        with self._database.read() as connection:
            row = connection.execute(_by_id(key_id)).mappings().first()
        return None if row is None else _key(row)

    def revoke(self, key_id: str, now: datetime, by: Actor = PLATFORM) -> ApiKey:
        """Revoke a key at once and for good; an unknown id is an InputError."""

        def work(connection: Connection) -> ApiKey:
            row = connection.execute(_by_id(key_id).with_for_update()).mappings().first()
            if row is None:
                raise InputError("key", key_id, "no key has this id")
            old = _key(row)
            if old.revoked_at is not None:
                return old
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=now))
            revoked = msgspec.structs.replace(old, revoked_at=now)
            _record(connection, old, revoked, by, now)
            return revoked

        key = self._database.transact(work)
        self._cache.clear()
        return key

    def keys(self, advertiser_id: str = "") -> list[ApiKey]:
        """Return all keys, or those of one advertiser, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if advertiser_id:
            query = query.where(api_keys.c.advertiser_id == advertiser_id)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def bootstrap(self, environment: Mapping[str, str], now: datetime) -> ApiKey | None:
        """Make the value of LLM_AUCTION_ADMIN_KEY an administrator's key, and revoke the one of an earlier value.

        Return None if the variable is not set. A revoked key stays revoked, even if the variable still holds it.

        Raises:
            ConfigError: if the value is too short to be secret, or not ASCII.
        """
        secret = environment.get(BOOTSTRAP_VARIABLE)
        if secret is None:
            return None
        if not SHORTEST_KEY <= len(secret) <= LONGEST_KEY:
            remedy = f"use {SHORTEST_KEY} random characters or more, for example from `openssl rand -base64 48`"
            raise ConfigError(BOOTSTRAP_VARIABLE, f"<{len(secret)} characters>", remedy)
        digests = self._digests(secret)
        if not digests:
            raise ConfigError(BOOTSTRAP_VARIABLE, "<not ASCII>", "use ASCII characters only: it is sent in a header")

        def work(connection: Connection) -> ApiKey:
            own = api_keys.c.digest.in_(digests)
            others = api_keys.c.id.startswith(BOOTSTRAP_ID, autoescape=True) & api_keys.c.revoked_at.is_(None) & ~own
            replaced = update(api_keys).where(others).values(revoked_at=now).returning(api_keys)
            for revoked in map(_key, connection.execute(replaced).mappings().all()):
                _record(connection, msgspec.structs.replace(revoked, revoked_at=None), revoked, PLATFORM, now)
            row = connection.execute(select(api_keys).where(own)).mappings().first()
            if row is not None:
                return _key(row)
            key = _new(Role.ADMIN, f"from {BOOTSTRAP_VARIABLE}", "", now, None, prefix=BOOTSTRAP_ID)
            self._insert(connection, key, secret)
            _record(connection, None, key, PLATFORM, now)
            return key

        return self._database.transact(work, idempotent=True)

    def _insert(self, connection: Connection, key: ApiKey, secret: str) -> None:
        values = msgspec.structs.asdict(key) | {"role": key.role.value, "digest": self._digests(secret)[0]}
        connection.execute(insert(api_keys).values(values))

    def _digests(self, secret: str) -> list[bytes]:
        """Return the hashes of a key, with the newest hash secret first; none if it cannot be a key."""
        if not SHORTEST_KEY <= len(secret) <= LONGEST_KEY or not secret.isascii():
            return []
        return [hmac.new(own, DOMAIN + secret.encode(), hashlib.sha256).digest() for own in self._secrets]

    def _record_use(self, key: ApiKey, digest: bytes, is_old_hash: bool, now: datetime) -> None:
        if not is_old_hash and key.last_used_at is not None and now - key.last_used_at < RECORD_USE_EVERY:
            return
        older = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < now)
        changed = update(api_keys).where(api_keys.c.id == key.id)
        try:
            self._database.transact(lambda c: c.execute(changed.where(older).values(last_used_at=now)))
            if is_old_hash:
                self._database.transact(lambda c: c.execute(changed.values(digest=digest)))
        except SQLAlchemyError as error:  # the key is valid even if its use cannot be recorded
            log.warning("accounts.key_use_not_recorded", key_id=key.id, reason=type(error).__name__)


def ensure_administrator(
    accounts: AccountStore, state_dir: Path, now: datetime, environment: Mapping[str, str] = os.environ
) -> Path | None:
    """Ensure that a router has an administrator's key: from the environment, or made once and kept in a file.

    Return the file, which only its owner can read, if the key was made now or at an earlier start; None if the
    environment gives the key, or another administrator's key is valid.
    """
    if accounts.bootstrap(environment, now) is not None:
        return None
    path = state_dir / KEY_FILE
    if path.exists() and accounts.find(path.read_text(encoding="ascii").strip(), now) is not None:
        return path
    lasting = (key for key in accounts.keys() if not key.id.startswith(SESSION_ID))  # noqa: SIM118
    if any(key.role is Role.ADMIN and key.valid(now) for key in lasting):
        return None
    issued = accounts.issue(Role.ADMIN, "made at the first start", now)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(issued.secret + "\n")
    return path


def _new(
    role: Role,
    label: str,
    advertiser_id: str,
    now: datetime,
    expires_at: datetime | None,
    prefix: str = "key_",
    publisher_id: str = "",
) -> ApiKey:
    return ApiKey(
        id=prefix + secrets.token_hex(8),
        role=role,
        advertiser_id=advertiser_id,
        publisher_id=publisher_id,
        label=label,
        created_at=checked_moment("now", now),
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
    )


def _record(connection: Connection, old: ApiKey | None, new: ApiKey, by: Actor, now: datetime) -> None:
    """Add a change of a key to the history; sessions of the console, which end by themselves, have none."""
    if new.id.startswith(SESSION_ID):
        return
    before, after = (_recorded(key) if key else {} for key in (old, new))
    record_change(connection, Subject.KEY, new.id, new.advertiser_id, changed_fields(before, after), by, now)


def _recorded(key: ApiKey) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(key)
    recorded = ("role", "label", "publisher_id", "expires_at", "revoked_at")
    return {name: values[name] for name in recorded if values[name]}


def _by_id(key_id: str) -> Select[Any]:
    return select(api_keys).where(api_keys.c.id == key_id)


def _key(row: RowMapping) -> ApiKey:
    values = {name: row[name] for name in ApiKey.__struct_fields__}
    return ApiKey(**values | {"role": Role(row["role"])})
