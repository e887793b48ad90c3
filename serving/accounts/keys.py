"""API keys: who may do what. Keys are shown once, stored as a keyed hash, rotated with an overlap, and revoked.

A key is 256 random bits, so it cannot be guessed or found by trying, and a slow password hash would only slow down
every request. One HMAC-SHA256 is right: whoever reads the table learns no key, and without the secret, which is not in
the database, can neither test a key against it nor write a row for one of their own.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, RowMapping, Select, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import ConfigError, InputError
from serving.database.columns import checked_moment, checked_text
from serving.database.engine import Database
from serving.database.schema import api_keys

log = structlog.get_logger(__name__)

BOOTSTRAP_VARIABLE = "LLM_AUCTION_ADMIN_KEY"
BOOTSTRAP_ID = "bootstrap_"
SHORTEST_KEY, LONGEST_KEY = 32, 256
PREFIX = "lla_"
DOMAIN = b"llm-auction api key 1\0"
CACHE_S = 5.0
USE_NOTED_EVERY = timedelta(minutes=1)
LONGEST_OVERLAP = timedelta(days=90)


class Role(StrEnum):
    """What a key is for: everything; the campaigns of one advertiser; asking for answers with ads."""

    ADMIN = "admin"
    ADVERTISER = "advertiser"
    PUBLISHER = "publisher"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be listed. `advertiser_id` is set for advertisers' keys alone."""

    id: str
    role: Role
    advertiser_id: str
    label: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    def valid(self, now: datetime) -> bool:
        """Whether it opens anything at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key with its `secret`, which is nowhere else and is not shown again."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        return f"IssuedKey(key={self.key!r}, secret=<withheld>)"


class AccountStore:
    """The keys of one database. `hash_secrets` are kept outside it, newest first; a key hashed under an older one
    is hashed anew when it is next used, so that a secret can be replaced without replacing the keys."""

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
        expires_at: datetime | None = None,
    ) -> IssuedKey:
        """A new key. Raises InputError unless exactly the advertisers' keys name an advertiser."""
        if (role is Role.ADVERTISER) != bool(advertiser_id):
            raise InputError("advertiser_id", advertiser_id, "an advertiser's key names its advertiser, no other does")
        if expires_at is not None:
            checked_moment("expires_at", expires_at)
        key = _new(role, checked_text("label", label), advertiser_id, now, expires_at)
        secret = PREFIX + secrets.token_urlsafe(32)
        self._database.transact(lambda connection: self._insert(connection, key, secret))
        return IssuedKey(key=key, secret=secret)

    def find(self, secret: str, now: datetime) -> ApiKey | None:
        """The valid key that `secret` is, or None. Remembered for five seconds: so long a revoked key may still work
        in other routers. The use is noted at most once a minute."""
        known = self.cached(secret, now)
        if known is not None:
            return known
        digests = self._digests(secret)
        if not digests:
            return None
        with self._database.read() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.digest.in_(digests))).mappings().first()
        if row is None:
            return None
        key = _key(row)
        if not key.valid(now):
            return None
        self._note_use(key, digests[0], row["digest"] != digests[0], now)
        if len(self._cache) >= 10_000:
            self._cache.clear()
        self._cache[digests[0]] = (time.monotonic(), key)
        return key

    def cached(self, secret: str, now: datetime) -> ApiKey | None:
        """The same without asking the database: None also where the key was not looked up in the last seconds."""
        digests = self._digests(secret)
        looked_up_at, key = self._cache.get(digests[0], (0.0, None)) if digests else (0.0, None)
        if key is None or time.monotonic() - looked_up_at >= CACHE_S or not key.valid(now):
            return None
        return key

    def rotate(self, key_id: str, overlap: timedelta, now: datetime) -> IssuedKey:
        """A new key with the old one's rights; the old one ends after `overlap`, or earlier if it was to end earlier.

        Raises InputError for a key that is not valid, or an overlap outside 0..90 days.
        """
        if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
            raise InputError("overlap", str(overlap), f"give a time from 0 to {LONGEST_OVERLAP.days} days")
        secret = PREFIX + secrets.token_urlsafe(32)

        def work(connection: Connection) -> ApiKey:
            row = connection.execute(_by_id(key_id).with_for_update()).mappings().first()
            if row is None or not _key(row).valid(now):
                raise InputError("key", key_id, "there is no such valid key: issue a new one")
            old = _key(row)
            until = now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(expires_at=until))
            new = _new(old.role, old.label, old.advertiser_id, now, old.expires_at)
            self._insert(connection, new, secret)
            return new

        key = self._database.transact(work)
        self._cache.clear()
        return IssuedKey(key=key, secret=secret)

    def revoke(self, key_id: str, now: datetime) -> ApiKey:
        """Ends a key at once and for good. Raises InputError where there is no such key."""

        def work(connection: Connection) -> ApiKey:
            open_ = (api_keys.c.id == key_id) & api_keys.c.revoked_at.is_(None)
            connection.execute(update(api_keys).where(open_).values(revoked_at=now))
            row = connection.execute(_by_id(key_id)).mappings().first()
            if row is None:
                raise InputError("key", key_id, "there is no such key")
            return _key(row)

        key = self._database.transact(work)
        self._cache.clear()
        return key

    def keys(self, advertiser_id: str = "") -> list[ApiKey]:
        """All keys, or one advertiser's, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if advertiser_id:
            query = query.where(api_keys.c.advertiser_id == advertiser_id)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def bootstrap(self, environment: Mapping[str, str], now: datetime) -> ApiKey | None:
        """Makes the value of LLM_AUCTION_ADMIN_KEY an administrator's key, and ends the one made so before.

        None where the variable is not set. A key that was revoked stays revoked, also when the variable still has it.
        Raises ConfigError for a value too short to be secret.
        """
        secret = environment.get(BOOTSTRAP_VARIABLE)
        if secret is None:
            return None
        if not SHORTEST_KEY <= len(secret) <= LONGEST_KEY:
            remedy = f"use {SHORTEST_KEY} random characters or more, e.g. of `openssl rand -base64 48`"
            raise ConfigError(BOOTSTRAP_VARIABLE, f"<{len(secret)} characters>", remedy)
        digests = self._digests(secret)
        if not digests:
            raise ConfigError(BOOTSTRAP_VARIABLE, "<not ASCII>", "use ASCII characters only: it is sent in a header")

        def work(connection: Connection) -> ApiKey:
            own = api_keys.c.digest.in_(digests)
            others = api_keys.c.id.startswith(BOOTSTRAP_ID, autoescape=True) & api_keys.c.revoked_at.is_(None) & ~own
            connection.execute(update(api_keys).where(others).values(revoked_at=now))
            row = connection.execute(select(api_keys).where(own)).mappings().first()
            if row is not None:
                return _key(row)
            key = _new(Role.ADMIN, f"from {BOOTSTRAP_VARIABLE}", "", now, None, prefix=BOOTSTRAP_ID)
            self._insert(connection, key, secret)
            return key

        return self._database.transact(work, idempotent=True)

    def _insert(self, connection: Connection, key: ApiKey, secret: str) -> None:
        values = msgspec.structs.asdict(key) | {"role": key.role.value, "digest": self._digests(secret)[0]}
        connection.execute(insert(api_keys).values(values))

    def _digests(self, secret: str) -> list[bytes]:
        """The keyed hashes of a key, under the newest secret first; none for what cannot be a key."""
        if not SHORTEST_KEY <= len(secret) <= LONGEST_KEY or not secret.isascii():
            return []
        return [hmac.new(own, DOMAIN + secret.encode(), hashlib.sha256).digest() for own in self._secrets]

    def _note_use(self, key: ApiKey, digest: bytes, is_old_hash: bool, now: datetime) -> None:
        if not is_old_hash and key.last_used_at is not None and now - key.last_used_at < USE_NOTED_EVERY:
            return
        noted = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < now)
        changed = update(api_keys).where(api_keys.c.id == key.id)
        try:
            self._database.transact(lambda c: c.execute(changed.where(noted).values(last_used_at=now)))
            if is_old_hash:
                self._database.transact(lambda c: c.execute(changed.values(digest=digest)))
        except SQLAlchemyError as error:  # a key is valid also where its use cannot be noted
            log.warning("use of a key not noted", key_id=key.id, reason=type(error).__name__)


def _new(
    role: Role, label: str, advertiser_id: str, now: datetime, expires_at: datetime | None, prefix: str = "key_"
) -> ApiKey:
    return ApiKey(
        id=prefix + secrets.token_hex(8),
        role=role,
        advertiser_id=advertiser_id,
        label=label,
        created_at=checked_moment("now", now),
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
    )


def _by_id(key_id: str) -> Select[Any]:
    return select(api_keys).where(api_keys.c.id == key_id)


def _key(row: RowMapping) -> ApiKey:
    values = {name: row[name] for name in ApiKey.__struct_fields__}
    return ApiKey(**values | {"role": Role(row["role"])})
