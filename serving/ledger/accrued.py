"""Unbooked spend across routers: each one writes its own and reads the sum of the others'.

While the ledger is away, a budget is shared by all routers that show its ads.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select

from mechanism.types import Micros
from serving.database.columns import sum_of
from serving.database.engine import Database
from serving.database.schema import accrued_spend

STALE = timedelta(minutes=15)
"""A router that has not written for so long is gone; the ledger books what it sent."""
REWRITE = timedelta(minutes=5)


class AccruedStore:
    """The unbooked spend of the routers of one database; `router` names this one."""

    def __init__(self, database: Database, router: str) -> None:
        self._database = database
        self._router = router
        self._written: dict[str, Micros] = {}
        self._written_at: datetime | None = None

    def exchange(self, own: Mapping[str, Micros], now: datetime) -> dict[str, Micros]:
        """Store what this router has accrued, by campaign; return the sum of the other routers'."""
        again = self._written_at is None or now - self._written_at >= REWRITE
        changed = {id_: micros for id_, micros in own.items() if again or self._written.get(id_) != micros}
        gone = self._written.keys() - own.keys()
        if changed or gone:
            self._database.transact(lambda c: self._write(c, changed, sorted(gone), now), idempotent=True)
            self._written = dict(own)
            self._written_at = now if again else self._written_at
        table = accrued_spend
        query = select(table.c.campaign_id, sum_of(table.c.micros)).group_by(table.c.campaign_id)
        query = query.where(table.c.router != self._router, table.c.updated_at > now - STALE)
        with self._database.read() as connection:
            return {campaign_id: micros for campaign_id, micros in connection.execute(query)}

    def sweep(self, now: datetime) -> None:
        """Delete what routers left that are gone."""
        old = delete(accrued_spend).where(accrued_spend.c.updated_at <= now - STALE)
        self._database.transact(lambda connection: connection.execute(old), idempotent=True)

    def _write(self, connection: Connection, changed: Mapping[str, Micros], gone: list[str], now: datetime) -> None:
        table = accrued_spend
        if gone:
            connection.execute(delete(table).where(table.c.router == self._router, table.c.campaign_id.in_(gone)))
        if changed:
            rows = [
                {"router": self._router, "campaign_id": id_, "micros": micros, "updated_at": now}
                for id_, micros in sorted(changed.items())
            ]
            into = self._database.insert(table)
            values = {"micros": into.excluded.micros, "updated_at": into.excluded.updated_at}
            connection.execute(into.on_conflict_do_update(index_elements=["router", "campaign_id"], set_=values), rows)
