"""Claims on idempotency keys, on both databases."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest.mock import Mock

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from serving.accounts.idempotency import Claim, IdempotencyStore, KeyReused, StillRunning, StoredAnswer
from serving.database.engine import Database
from serving.database.schema import idempotent_requests
from tests.serving.database.samples import NOW

MINUTE = timedelta(minutes=1)
ANSWER = StoredAnswer(201, "application/json", b"{}")


def claimed(store: IdempotencyStore, minutes: int = 0, request: bytes = b"r") -> Claim | StoredAnswer:
    return store.begin("key_1", "k", request, NOW + minutes * MINUTE, 15 * MINUTE)


def test_of_many_requests_at_once_one_gets_the_claim(database: Database) -> None:
    store = IdempotencyStore(database, [b"secret"])

    def ask(_: int) -> str:
        try:
            return type(claimed(store)).__name__
        except StillRunning:
            return "running"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(8))) == ["Claim", *["running"] * 7]


def test_an_answer_is_returned_until_it_expires(database: Database) -> None:
    store = IdempotencyStore(database, [b"secret"])
    claim = claimed(store)
    assert isinstance(claim, Claim)
    store.save(claim, ANSWER)
    assert claimed(store, 24 * 60 - 1) == ANSWER
    with pytest.raises(KeyReused):
        claimed(store, 1, b"another")
    assert isinstance(claimed(store, 24 * 60), Claim)


def test_an_abandoned_claim_is_taken_over_and_its_holder_cannot_answer(database: Database) -> None:
    store = IdempotencyStore(database, [b"secret"])
    first = claimed(store)
    with pytest.raises(StillRunning):
        claimed(store, 14)
    second = claimed(store, 15)
    assert isinstance(first, Claim)
    assert isinstance(second, Claim)
    with pytest.raises(StillRunning):
        store.save(first, ANSWER)
    store.release(first)  # changes nothing
    store.save(second, ANSWER)
    assert claimed(store, 16) == ANSWER


def test_a_running_request_keeps_its_claim_as_long_as_it_is_renewed(database: Database) -> None:
    store, other = (IdempotencyStore(database, [b"secret"]) for _ in range(2))
    claim = claimed(store)
    store.renew(NOW + 10 * MINUTE)
    other.renew(NOW + 20 * MINUTE)  # of another router, which has none
    with pytest.raises(StillRunning):
        claimed(other, 24)
    assert isinstance(claim, Claim)
    store.save(claim, ANSWER)
    store.renew(NOW + 20 * MINUTE)
    assert claimed(other, 24) == ANSWER


def test_an_answer_that_was_sent_while_the_database_was_away_is_stored_once_it_is_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = (IdempotencyStore(database, [b"secret"]) for _ in range(2))
    claim = claimed(store)
    assert isinstance(claim, Claim)
    with monkeypatch.context() as patch:
        patch.setattr(database, "transact", Mock(side_effect=OperationalError("", {}, Exception())))
        with pytest.raises(OperationalError):
            store.save(claim, ANSWER)
        with pytest.raises(OperationalError):
            store.renew(NOW)
    store.renew(NOW)
    assert claimed(other, 60) == ANSWER


def test_a_released_claim_is_free(database: Database) -> None:
    store = IdempotencyStore(database, [b"secret"])
    claim = claimed(store)
    assert isinstance(claim, Claim)
    store.release(claim)
    assert isinstance(claimed(store), Claim)
    with pytest.raises(StillRunning):
        store.save(claim, ANSWER)


def test_the_table_confirms_no_guess_of_a_request(database: Database) -> None:
    store = IdempotencyStore(database, [b"secret"])
    for key in ("k", "another"):
        store.begin("key_1", key, b"r", NOW, 15 * MINUTE)
    with database.read() as connection:
        stored = connection.execute(select(idempotent_requests.c.request)).scalars().all()
    assert len({*stored, hashlib.sha256(b"r").digest()}) == 3


def test_an_answer_is_found_after_the_secret_was_rotated(database: Database) -> None:
    before, after = IdempotencyStore(database, [b"old"]), IdempotencyStore(database, [b"new", b"old"])
    claim = claimed(before)
    assert isinstance(claim, Claim)
    with pytest.raises(StillRunning):
        claimed(after)
    before.save(claim, ANSWER)
    assert claimed(after, 1) == ANSWER
    with pytest.raises(KeyReused):
        claimed(after, 1, request=b"another")
    assert isinstance(claimed(IdempotencyStore(database, [b"new"]), 1), Claim), "without the old secret it is unknown"
