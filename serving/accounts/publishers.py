"""Publishers and their placements: where answers with ads appear, and who is paid for it.

A placement belongs to one publisher for good. A new publisher has one placement of its own id, which its keys use where
a request names none. Its share of a charge is fixed when the charge is booked (`serving.ledger.charging`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec
from sqlalchemy import Connection, RowMapping, select, update

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.bid_scale import BidScale
from serving.campaigns.storage import NotFound
from serving.campaigns.types import normal
from serving.database.engine import Database
from serving.database.schema import placements, publishers
from serving.ledger.charging import WHOLE_SHARE

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Publisher(msgspec.Struct, frozen=True, kw_only=True):
    """A publisher; of what advertisers pay on its placements it gets `share_thousandths`."""

    id: str
    share_thousandths: int
    created_at: datetime


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A placement and the publisher to which it belongs.

    `floors` are the lowest bids, in micros by currency. Without any, every bid takes part.
    """

    id: str
    publisher_id: str
    created_at: datetime
    floors: dict[str, Micros] = {}


class PublisherStore:
    """The publishers of one database. Ids are lower-case, so that none differs from another in its spelling alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, publisher_id: str, share_thousandths: int, now: datetime) -> Publisher:
        """Create a publisher and its first placement, which has the same id; an id that is taken is an InputError."""
        new = Publisher(id=_checked("id", publisher_id), share_thousandths=_share(share_thousandths), created_at=now)

        def work(connection: Connection) -> Publisher:
            row = self._database.insert(publishers).values(msgspec.structs.asdict(new)).on_conflict_do_nothing()
            if connection.execute(row.returning(publishers.c.id)).first() is None:
                raise InputError(
                    "id",
                    publisher_id,
                    "a publisher has this id: choose another, or change its share (PATCH /v1/publishers/ID)",
                )
            self._place(connection, Placement(id=new.id, publisher_id=new.id, created_at=now))
            return new

        return self._database.transact(work)

    def set_share(self, publisher_id: str, share_thousandths: int) -> Publisher:
        """Change a publisher's share of charges that are booked from now on; an unknown id is an InputError."""
        changed = update(publishers).where(publishers.c.id == publisher_id)
        changed = changed.values(share_thousandths=_share(share_thousandths))

        def work(connection: Connection) -> Publisher:
            row = connection.execute(changed.returning(publishers)).mappings().first()
            if row is None:
                raise InputError(
                    "publisher", publisher_id, "no publisher has this id: create it first (POST /v1/publishers)"
                )
            return Publisher(**row)

        return self._database.transact(work)

    def register(self, placement_id: str, publisher_id: str, now: datetime) -> Placement:
        """Register a placement; registering a publisher's own again changes nothing.

        An id that is malformed or another publisher's, or a publisher that there is not, is an InputError.
        """
        new = Placement(id=_checked("id", placement_id), publisher_id=publisher_id, created_at=now)

        def work(connection: Connection) -> Placement:
            known = connection.execute(select(publishers.c.id).where(publishers.c.id == publisher_id)).first()
            if known is None:
                raise InputError("publisher_id", publisher_id, "no publisher has this id: create it first")
            return self._place(connection, new)

        return self._database.transact(work)

    def set_floors(
        self, placement_id: str, floors: Mapping[str, Micros], scale: BidScale, publisher_id: str = ""
    ) -> Placement:
        """Replace the floors of a placement, of one publisher's if `publisher_id` is given; NotFound without one.

        A floor of 0, or one that no bid on the market's `scale` can reach, is an InputError.
        """
        checked = _floors(floors, scale)
        own = [placements.c.id == placement_id]
        own += [placements.c.publisher_id == publisher_id] if publisher_id else []
        changed = update(placements).where(*own).values(floors=msgspec.json.encode(checked).decode())

        def work(connection: Connection) -> Placement:
            row = connection.execute(changed.returning(placements)).mappings().first()
            if row is None:
                raise NotFound("placement", placement_id, "no placement has this id: register it first")
            return _placement(row)

        return self._database.transact(work)

    def publishers(self) -> list[Publisher]:
        """Return all publishers, by id."""
        with self._database.read() as connection:
            return [
                Publisher(**row) for row in connection.execute(select(publishers).order_by(publishers.c.id)).mappings()
            ]

    def placements(self, publisher_id: str = "") -> list[Placement]:
        """Return all placements, or one publisher's, by id."""
        query = select(placements).order_by(placements.c.id)
        query = query.where(placements.c.publisher_id == publisher_id) if publisher_id else query
        with self._database.read() as connection:
            return [_placement(row) for row in connection.execute(query).mappings()]

    def _place(self, connection: Connection, new: Placement) -> Placement:
        row = {"id": new.id, "publisher_id": new.publisher_id, "created_at": new.created_at}
        connection.execute(self._database.insert(placements).values(row).on_conflict_do_nothing())
        stored = connection.execute(select(placements).where(placements.c.id == new.id)).mappings().one()
        if stored["publisher_id"] != new.publisher_id:
            raise InputError("id", new.id, "a placement of another publisher has this id: choose another one")
        return _placement(stored)


class PlacementDirectory:
    """The placements as this router last read them. Used on the event loop; `load` on a thread."""

    def __init__(self, store: PublisherStore) -> None:
        self._store = store
        self._placements: dict[str, Placement] = {}

    def load(self) -> None:
        """Read all placements."""
        self._placements = {one.id: one for one in self._store.placements()}

    def owner(self, placement: str) -> str:
        """Return the publisher of a placement, in whatever spelling; empty if it is not registered."""
        known = self._placements.get(normal(placement))
        return known.publisher_id if known else ""

    def floors(self, placement: str) -> Mapping[str, Micros]:
        """Return the floors of a placement by currency; none if it is not registered."""
        known = self._placements.get(normal(placement))
        return known.floors if known else _NO_FLOORS


_NO_FLOORS: Mapping[str, Micros] = MappingProxyType({})


def _placement(row: RowMapping) -> Placement:
    floors = msgspec.json.decode(row["floors"], type=dict[str, int])
    return Placement(**dict(row) | {"floors": floors})


def _checked(place: str, value: str) -> str:
    if not _ID.fullmatch(value):
        raise InputError(place, value, "use 1 to 64 lower-case letters, digits or '._-'")
    return value


def _share(thousandths: int) -> int:
    if not 0 <= thousandths <= WHOLE_SHARE:
        raise InputError("share_thousandths", thousandths, f"give a whole number from 0 to {WHOLE_SHARE}")
    return thousandths


def _floors(floors: Mapping[str, Micros], scale: BidScale) -> dict[str, Micros]:
    for currency, micros in floors.items():
        highest = scale.highest_in(currency)
        if highest is None:
            remedy = "use a currency of the market's scale of bids (the routers' --highest-bid)"
            raise InputError("floors", currency, remedy)
        if not 1 <= micros <= highest:
            remedy = f"give micros from 1 to {highest}, the highest bid, or leave the currency out for no floor"
            raise InputError(f"floors.{currency}", micros, remedy)
    return dict(sorted(floors.items()))
