"""Requests with an Idempotency-Key: who answers one, and the answer that its retries get, for a day.

A key belongs to the API key that sent it. The first request claims it; while that one runs, others are in progress
elsewhere. Its router renews the claim; one that is not renewed is of a router that is gone. A stored answer is
encrypted with a key that only the Idempotency-Key itself yields, so that the table holds no text of a reader.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import AuctionError
from serving.database.columns import checked_moment
from serving.database.engine import Database
from serving.database.schema import idempotent_requests

KEPT = timedelta(hours=24)
NONCE_BYTES = 12


class KeyReused(AuctionError):
    """The key was sent before with another request."""


class StillRunning(AuctionError):
    """The first request with this key has no answer yet."""


class StoredAnswer(msgspec.Struct, frozen=True):
    """An HTTP response as it was sent."""

    status: int
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer the request with one key, until another request takes it over."""

    digest: bytes
    holder: bytes
    cipher_key: bytes = field(repr=False)


class IdempotencyStore:
    """The keys of one database. Times are aware moments.

    New keys are stored under the first of the `secrets`; those that were stored under another one are found as well.
    Safe to use from several threads.
    """

    def __init__(self, database: Database, secrets_: Sequence[bytes]) -> None:
        self._database = database
        self._secrets = tuple(secrets_)
        self._held: dict[bytes, None] = {}
        """The holders of this store's claims, as of the last renewal without those that were answered or released."""
        self._unsaved: list[tuple[Claim, StoredAnswer]] = []
        """Answers that were sent while the database was away."""

    def begin(
        self, owner: str, key: str, request: bytes, now: datetime, abandoned_after: timedelta
    ) -> Claim | StoredAnswer:
        """Claim the key for a request, or return the answer to the first request with it.

        A claim that was not renewed for `abandoned_after` is taken over: its router is gone. KeyReused means that the
        key was sent with another request, StillRunning that another request holds the claim.
        """
        name = f"{owner}\0{key}".encode()
        holder = secrets.token_bytes(16)
        claims = [
            Claim(_derived(secret, b"key", name), holder, _derived(secret, b"answer", name)) for secret in self._secrets
        ]
        # Keyed as well: a plain hash would let a reader of the table confirm a guess of the question.
        requests = {
            claim.digest: _derived(secret, b"request", name + b"\0" + request)
            for claim, secret in zip(claims, self._secrets, strict=True)
        }
        checked_moment("now", now)

        def work(connection: Connection) -> Claim | StoredAnswer:
            known = self._stored(connection, claims) if len(claims) > 1 else None
            claim = known or claims[0]
            own = idempotent_requests.c.digest == claim.digest
            row = {
                "digest": claim.digest,
                "request": requests[claim.digest],
                "holder": claim.holder,
                "answer": None,
                "created_at": now,
                "expires_at": now + KEPT,
            }
            connection.execute(delete(idempotent_requests).where(own, idempotent_requests.c.expires_at <= now))
            new = self._database.insert(idempotent_requests).values(row).on_conflict_do_nothing()
            if connection.execute(new.returning(idempotent_requests.c.digest)).first() is not None:
                return claim
            found = connection.execute(select(idempotent_requests).where(own).with_for_update()).mappings().one()
            if not hmac.compare_digest(found["request"], requests[claim.digest]):
                raise KeyReused("the key was sent with another request")
            if found["answer"] is not None:
                return _decrypted(found["answer"], claim)
            if found["holder"] != claim.holder:
                if now - found["created_at"] < abandoned_after:
                    raise StillRunning("the first request with this key is not answered yet")
                connection.execute(update(idempotent_requests).where(own).values(row))
            return claim

        found = self._database.transact(work, idempotent=True)
        if isinstance(found, Claim):
            self._held[found.holder] = None
        return found

    def renew(self, now: datetime) -> None:
        """Store the answers that `save` could not, and renew the claims that have none; call it every few seconds."""
        while self._unsaved:
            with suppress(StillRunning):
                self._save(*self._unsaved[0])
            del self._unsaved[0]
        held = tuple(self._held.copy())
        if not held:
            return
        table = idempotent_requests
        changed = update(table).where(table.c.holder.in_(held), table.c.answer.is_(None))
        changed = changed.values(created_at=checked_moment("now", now))

        def work(connection: Connection) -> set[bytes]:
            return set(connection.execute(changed.returning(table.c.holder)).scalars())

        for holder in set(held) - self._database.transact(work, idempotent=True):
            del self._held[holder]

    def record(self, connection: Connection, claim: Claim, answer: StoredAnswer) -> None:
        """Store the answer, in the transaction whose outcome it reports.

        Raises:
            StillRunning: if another request has taken the claim over; the transaction must not commit.
        """
        nonce = secrets.token_bytes(NONCE_BYTES)
        text = nonce + AESGCM(claim.cipher_key).encrypt(nonce, msgspec.msgpack.encode(answer), claim.digest)
        table = idempotent_requests
        changed = update(table).where(table.c.digest == claim.digest, table.c.holder == claim.holder)
        if connection.execute(changed.values(answer=text).returning(table.c.digest)).first() is None:
            raise StillRunning("another request with this key has taken over")

    def save(self, claim: Claim, answer: StoredAnswer) -> None:
        """Store the answer in a transaction of its own; `record`'s StillRunning propagates.

        Raises:
            SQLAlchemyError: if the database is away; `renew` tries again.
        """
        try:
            self._save(claim, answer)
        except SQLAlchemyError:
            self._unsaved.append((claim, answer))
            raise

    def _save(self, claim: Claim, answer: StoredAnswer) -> None:
        self._database.transact(lambda connection: self.record(connection, claim, answer), idempotent=True)

    def release(self, claim: Claim) -> None:
        """Give the claim back after a failure, so that a retry is answered at once."""
        table = idempotent_requests
        own = (table.c.digest == claim.digest) & (table.c.holder == claim.holder) & table.c.answer.is_(None)
        self._database.transact(lambda connection: connection.execute(delete(table).where(own)), idempotent=True)

    def sweep(self, now: datetime) -> int:
        """Delete expired answers, and return how many."""
        expired = delete(idempotent_requests).where(idempotent_requests.c.expires_at <= checked_moment("now", now))
        return self._database.transact(lambda connection: connection.execute(expired).rowcount, idempotent=True)

    def _stored(self, connection: Connection, claims: Sequence[Claim]) -> Claim | None:
        """Return the claim under whose secret the key is on record."""
        digests = idempotent_requests.c.digest
        known = set(connection.execute(select(digests).where(digests.in_([c.digest for c in claims]))).scalars())
        return next((claim for claim in claims if claim.digest in known), None)


def _derived(secret: bytes, purpose: bytes, name: bytes) -> bytes:
    return hmac.digest(secret, purpose + b"\0" + name, hashlib.sha256)


def _decrypted(text: bytes, claim: Claim) -> StoredAnswer:
    plain = AESGCM(claim.cipher_key).decrypt(text[:NONCE_BYTES], text[NONCE_BYTES:], claim.digest)
    return msgspec.msgpack.decode(plain, type=StoredAnswer)
