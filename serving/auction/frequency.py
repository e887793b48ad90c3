"""Frequency caps: how often one reader has seen a campaign and its creatives within the hours of the caps.

The impressions of capped campaigns are in the database, so that all routers count together and a restart forgets none.
A candidate with a cap is reserved before the answer is written: two routers that answer one reader at the same time
cannot both use the last impression. What the answer did not show is given back when it is finalised.

Readers are identified by a keyed hash of their id, never by the id. A cap is a promise to the advertiser: if a reader
cannot be counted (no consent, no id, no database), campaigns with caps are excluded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from mechanism.errors import ConfigError
from mechanism.types import AdId
from serving.auction.eligibility.request import UNCOUNTED, ReachedCaps
from serving.campaigns.types import Campaign, FrequencyCap
from serving.database.engine import Database
from serving.database.schema import capped_impressions

RESERVED = timedelta(hours=1)
"""How long a reservation counts if its router is gone before it finalised the answer."""


@dataclass(frozen=True, slots=True)
class _Seen:
    campaign_id: str
    creative_id: AdId
    at: datetime


class FrequencyCaps:
    """The impressions of capped campaigns by reader. Safe to use from several threads, processes and machines.

    Raises:
        ConfigError: if the key is too short or too long.
    """

    def __init__(self, database: Database, key: bytes) -> None:
        if not 16 <= len(key) <= 64:
            raise ConfigError("frequency key", f"<{len(key)} bytes>", "give 16 to 64 random bytes")
        self._database = database
        self._key = key

    def reached(
        self, user_id: str | None, consent: bool, now: datetime, find: Callable[[str], Campaign | None]
    ) -> ReachedCaps:
        """Return the campaigns and creatives whose caps the reader has reached.

        `find` gives the current version of a campaign, whose caps apply. A reader without consent or id is not
        countable.
        """
        if not consent or not user_id:
            return UNCOUNTED
        with self._database.read() as connection:
            seen = _seen(connection, self._hash(user_id), now)
        known = [(campaign, one) for one in seen if (campaign := find(one.campaign_id)) is not None]
        return ReachedCaps(
            True,
            frozenset(c.id for c, one in known if _campaign_is_reached(c, seen, now)),
            frozenset(one.creative_id for c, one in known if _creative_is_reached(c, one.creative_id, seen, now)),
        )

    def reserve(
        self, user_id: str, auction_id: str, wanted: Sequence[tuple[Campaign, AdId]], now: datetime
    ) -> frozenset[AdId]:
        """Reserve an impression for each creative whose caps allow one more, and return these creatives."""
        reader = self._hash(user_id)

        def work(connection: Connection) -> frozenset[AdId]:
            self._lock(connection, reader)
            table = capped_impressions
            own = (table.c.reader == reader) & (table.c.auction_id == auction_id)
            connection.execute(delete(table).where(own))  # of an attempt whose commit is in doubt
            seen = _seen(connection, reader, now)
            rows = []
            for campaign, creative_id in wanted:
                if _campaign_is_reached(campaign, seen, now) or _creative_is_reached(campaign, creative_id, seen, now):
                    continue
                seen.append(_Seen(campaign.id, creative_id, now))
                rows.append(
                    {
                        "reader": reader,
                        "auction_id": auction_id,
                        "campaign_id": campaign.id,
                        "creative_id": creative_id,
                        "seen_at": now,
                        "reserved_until": now + RESERVED,
                        "kept_until": now + _longest(campaign),
                    }
                )
            if rows:
                connection.execute(insert(table), rows)
            return frozenset(str(row["creative_id"]) for row in rows)

        return self._database.transact(work, idempotent=True)

    def settle(self, user_id: str, auction_id: str, shown: Collection[AdId], now: datetime) -> None:
        """Count the creatives that an answer showed, and give its other reservations back."""
        table = capped_impressions
        own = (table.c.reader == self._hash(user_id)) & (table.c.auction_id == auction_id)

        def work(connection: Connection) -> None:
            connection.execute(delete(table).where(own, table.c.creative_id.not_in(shown)))
            connection.execute(update(table).where(own).values(seen_at=now, reserved_until=None))

        self._database.transact(work, idempotent=True)

    def forget(self, user_id: str) -> None:
        """Delete the impressions of a reader whose data are erased."""
        own = capped_impressions.c.reader == self._hash(user_id)
        self._database.transact(lambda c: c.execute(delete(capped_impressions).where(own)), idempotent=True)

    def sweep(self, now: datetime) -> None:
        """Delete impressions that no cap counts any more."""
        table = capped_impressions
        over = or_(table.c.kept_until <= now, and_(table.c.reserved_until.is_not(None), table.c.reserved_until <= now))
        self._database.transact(lambda connection: connection.execute(delete(table).where(over)), idempotent=True)

    def _lock(self, connection: Connection, reader: bytes) -> None:
        """Let the requests of one reader take turns until the transaction ends; SQLite has one writer anyway."""
        if not self._database.is_sqlite:
            connection.execute(select(func.pg_advisory_xact_lock(int.from_bytes(reader[:8], "big", signed=True))))

    def _hash(self, user_id: str) -> bytes:
        return blake2b(
            user_id.encode(errors="surrogatepass"), key=self._key, digest_size=16, person=b"frequency"
        ).digest()


def has_caps(campaign: Campaign) -> bool:
    """Whether a campaign has any frequency cap."""
    return bool(campaign.campaign_caps or campaign.creative_caps)


def _seen(connection: Connection, reader: bytes, now: datetime) -> list[_Seen]:
    table = capped_impressions
    valid: ColumnElement[bool] = or_(table.c.reserved_until.is_(None), table.c.reserved_until > now)
    query = select(table.c.campaign_id, table.c.creative_id, table.c.seen_at)
    return [_Seen(*row) for row in connection.execute(query.where(table.c.reader == reader, valid))]


def _campaign_is_reached(campaign: Campaign, seen: Sequence[_Seen], now: datetime) -> bool:
    times = [one.at for one in seen if one.campaign_id == campaign.id]
    return _is_reached(campaign.campaign_caps, times, now)


def _creative_is_reached(campaign: Campaign, creative_id: AdId, seen: Sequence[_Seen], now: datetime) -> bool:
    return _is_reached(campaign.creative_caps, [one.at for one in seen if one.creative_id == creative_id], now)


def _is_reached(caps: tuple[FrequencyCap, ...], times: Sequence[datetime], now: datetime) -> bool:
    # A cap's window is half open: (now - hours, now].
    return any(sum(at > now - timedelta(hours=cap.hours) for at in times) >= cap.impressions for cap in caps)


def _longest(campaign: Campaign) -> timedelta:
    return timedelta(hours=max(cap.hours for cap in (*campaign.campaign_caps, *campaign.creative_caps)))
