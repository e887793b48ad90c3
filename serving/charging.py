"""From the local queue to the ledger, in batches on a thread of its own: auctions, impressions, clicks.

Everything here may run twice for the same record; the ledger and the auction counters know what they have. What the
ledger refuses for good is set aside with its reason, what it cannot take now waits. `serving.charging_process` runs
this beside the router, where nothing of it keeps a stream waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import InputError
from serving.spool import Spooled, SpoolFile
from serving.store.auctions import Auction, model_versions, record_auctions
from serving.store.engine import Database
from serving.store.events import BadEvents, Charged, ChargeEvent
from serving.store.ledger import Ledger

log = structlog.get_logger(__name__)

AUCTION, CHARGE = "auction", "charge"
MOST_ENTRIES = 9_000
BATCH = 300
GATHERED_S = 0.2
IDLE_S = 0.5
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
T = TypeVar("T")
Told = Callable[[ChargeEvent, Charged], None]
"""Hears of every event that was new, on a thread of the charging."""
_AUCTION = msgspec.json.Decoder(Auction)
_CHARGE = msgspec.json.Decoder(ChargeEvent)


class Charger:
    """Delivers a spool to a database; records that come within `gathered_s` share the cost of a transaction."""

    def __init__(self, spool: SpoolFile, database: Database, told: Told, gathered_s: float = GATHERED_S) -> None:
        self._spool = spool
        self._database = database
        self._ledger = Ledger(database)
        self._told = told
        self._gathered_s = gathered_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="charger", daemon=True)

    def start(self) -> None:
        """Begins with what an earlier process left."""
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Delivers what is queued, for at most that long, and ends; the rest stays queued for the next start."""
        self._stopping.set()
        self._spool.arrived.set()
        self._thread.join(within_s)
        if self._spool.depth:
            log.warning("charges wait for the next start", records=self._spool.depth)

    def deliver(self) -> int:
        """Delivers one batch; how many records it took off the queue."""
        batch = self._spool.batch(BATCH)
        if not batch:
            return 0
        auctions, charges = self._decoded(batch)
        self._auctions(auctions)
        self._charges(charges)
        self._spool.delivered([spooled.id for spooled, _ in (*auctions, *charges)])
        return len(batch)

    def _run(self) -> None:
        failures = 0
        while True:
            self._spool.arrived.clear()
            try:
                full = self.deliver() == BATCH
                failures = 0
            except Exception as error:
                # Whatever it is, the records stay queued: nothing is lost but time.
                log.error("charges not delivered", reason=type(error).__name__, records=self._spool.depth)
                if not isinstance(error, SQLAlchemyError) and failures >= len(PAUSES_S):
                    log.error("charging goes on failing: see `refused` and the database", failures=failures)
                if self._stopping.is_set():
                    return
                self._stopping.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1
                continue
            if full:
                continue
            if self._stopping.is_set() and not self._spool.depth:
                return
            # Together records cost a fraction of what each costs alone: let some more come.
            self._stopping.wait(self._gathered_s)
            if not self._stopping.is_set() and not self._spool.depth:
                self._spool.arrived.wait(IDLE_S)

    def _decoded(
        self, batch: Sequence[Spooled]
    ) -> tuple[list[tuple[Spooled, Auction]], list[tuple[Spooled, ChargeEvent]]]:
        auctions: list[tuple[Spooled, Auction]] = []
        charges: list[tuple[Spooled, ChargeEvent]] = []
        entries = 0
        for spooled in batch:
            try:
                if spooled.kind == AUCTION:
                    auction = _AUCTION.decode(spooled.body)
                    entries += len(auction.entries)
                    if entries > MOST_ENTRIES:
                        break
                    auctions.append((spooled, auction))
                else:
                    charges.append((spooled, _CHARGE.decode(spooled.body)))
            except (msgspec.DecodeError, InputError) as error:
                self._refuse(spooled, error)
        return auctions, charges

    def _auctions(self, auctions: list[tuple[Spooled, Auction]]) -> None:
        while auctions:
            try:
                record_auctions(self._database, [auction for _, auction in auctions])
                return
            except BadEvents as error:
                self._set_aside(auctions, error)

    def _charges(self, charges: list[tuple[Spooled, ChargeEvent]]) -> None:
        unnamed = {event.auction_id for _, event in charges if not event.model_version}
        versions = model_versions(self._database, unnamed) if unnamed else {}
        charges[:] = [(s, e if e.model_version else _of_model(e, versions)) for s, e in charges]
        while charges:
            try:
                outcomes = self._ledger.charge_many([event for _, event in charges])
            except BadEvents as error:
                self._set_aside(charges, error)
                continue
            for (_, event), outcome in zip(charges, outcomes, strict=True):
                if outcome.new:
                    self._told(event, outcome)
            return

    def _set_aside(self, records: list[tuple[Spooled, T]], error: BadEvents) -> None:
        reasons = dict(error.rejected)
        for index in sorted(reasons, reverse=True):
            spooled, _ = records.pop(index)
            self._refuse(spooled, reasons[index])

    def _refuse(self, spooled: Spooled, error: Exception) -> None:
        log.error("record refused by the ledger", kind=spooled.kind, record=spooled.id, reason=str(error)[:200])
        self._spool.refuse(spooled, str(error)[:500])


def _of_model(event: ChargeEvent, versions: dict[str, str]) -> ChargeEvent:
    return msgspec.structs.replace(event, model_version=versions.get(event.auction_id, ""))
