"""The ledger worker: what the log says of auctions and clicks is counted and charged, each once. The only writer of
spend.

Implements `streaming.workers.task.Task`. How far it has read stands in the database, written in the transaction that
charges; what the group commits is for display. What the ledger refuses for good goes to the dead letters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mechanism.errors import ConfigError, InputError
from serving.database.engine import Database
from serving.ledger.auctions import Auction, model_versions
from serving.ledger.billable import auction_of, charge_of, charges_of
from serving.ledger.events import BadAuctions, BadEvents, Charged, ChargeEvent, Offset
from serving.ledger.ledger import Ledger
from streaming.dead_letters import bury
from streaming.embedded import EmbeddedLog
from streaming.events import Click, Interaction
from streaming.log import EventLog, LogProducer, Partition, Record
from streaming.topics import CLICKS, INTERACTIONS
from streaming.workers.task import Batch, WorkerStopped

log = structlog.get_logger(__name__)

GROUP = "ledger"
BURY_S = 30.0
MOST = 9_000
"""Of each in one transaction: the ledger takes 10,000, and an interaction may bring a hundred more."""
Told = Callable[[ChargeEvent, Charged], None]
"""Hears of every event that was new, on the worker's thread."""


@dataclass(frozen=True, slots=True)
class ChargingSettings:
    """What comes within `gathered_s` seconds shares the cost of a transaction, up to `charges` and `entries` (ads of
    auctions)."""

    gathered_s: float = 0.2
    charges: int = 2_000
    entries: int = 6_000

    def __post_init__(self) -> None:
        if self.gathered_s < 0:
            raise ConfigError("ledger.gathered_s", self.gathered_s, "give 0 seconds or more")
        for name in ("charges", "entries"):
            if not 1 <= getattr(self, name) <= MOST:
                raise ConfigError(f"ledger.{name}", getattr(self, name), f"give 1 to {MOST}")


class ChargingMetrics:
    """What the ledger took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "llm_auction_ledger_"
        self.revenue = Counter(prefix + "revenue_micros", "Charged.", ("currency", "pricing"), registry=registry)
        self.auctions = Counter(prefix + "auctions", "Auctions booked, repetitions counted.", registry=registry)
        self.charges = Counter(prefix + "charges", "Events booked, by their fate.", ("fate",), registry=registry)
        self.refused = Counter(prefix + "refused", "Records set aside.", ("topic",), registry=registry)

    def booked(self, event: ChargeEvent, outcome: Charged) -> None:
        """An event is on record."""
        fate = (outcome.reason.partition(":")[0] or "charged") if outcome.new else "repeated"
        self.charges.labels(fate).inc()
        if outcome.new:
            self.revenue.labels(event.currency, event.kind.value).inc(outcome.charged_micros)


@dataclass(slots=True)
class _Gathered:
    """What one transaction will hold, each with the record that it came from."""

    auctions: list[tuple[Record, Auction]] = field(default_factory=list)
    charges: list[tuple[Record, ChargeEvent]] = field(default_factory=list)
    entries: int = 0


class ChargingTask:
    """Charges to a database what a log holds."""

    name = GROUP
    topics = (INTERACTIONS, CLICKS)
    transient: tuple[type[Exception], ...] = (OperationalError, InterfaceError, PoolTimeout)

    def __init__(
        self,
        event_log: EventLog,
        database: Database,
        settings: ChargingSettings | None = None,
        *,
        told: Told = lambda event, outcome: None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._log = event_log
        self._database = database
        self._ledger = Ledger(database)
        self._settings = settings or ChargingSettings()
        self._told = told
        self.metrics = ChargingMetrics(registry or CollectorRegistry())
        self._owned: set[Partition] = set()
        self._after: dict[int, dict[Partition, int]] = {}
        self._gathered = _Gathered()
        self._since: float | None = None
        self._written: dict[Partition, int] = {}
        self._letters: LogProducer | None = None
        self._identity = ""

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """A partition is worked on once it is ours in both topics; both are read from where the database says."""
        self._identity = self._identity or self._log.identity()
        self._owned.update(partitions)
        found: dict[Partition, int] = {}
        for number in {partition.number for partition in partitions}:
            places = [Partition(topic, number) for topic in self.topics]
            if all(place in self._owned for place in places):
                known = {p: self._ledger.next_offset(consumer_of(self._identity, p.topic), number) for p in places}
                self._after[number] = {place: offset or 0 for place, offset in known.items()}
                found |= self._after[number]
        self._written |= found
        return found

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """What was not booked is read again by the next owner: nothing of it is on record."""
        self._owned.difference_update(partitions)
        gone = {partition.number for partition in partitions}
        for number in gone:
            self._after.pop(number, None)
        self._written = {p: offset for p, offset in self._written.items() if p.number not in gone}
        kept = self._gathered
        self._gathered = _Gathered(charges=[(r, event) for r, event in kept.charges if r.partition not in gone])
        for record, auction in kept.auctions:
            if record.partition not in gone:
                self._count(record, auction)

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Gathers a batch, auctions first, and books what is due."""
        ours = [(record, event) for record, event in batch.arrivals if record.partition in self._after]
        self._take_auctions([(record, event) for record, event in ours if isinstance(event, Interaction)])
        self._take_clicks([(record, event) for record, event in ours if isinstance(event, Click)])
        for partition, offset in batch.after.items():
            if partition.number in self._after:
                self._passed(partition, offset)
        now = time.monotonic()
        if self._offsets() != self._written:
            self._since = now if self._since is None else self._since
            if now - self._since >= self._settings.gathered_s:
                self._book()
        return dict(self._written)

    def paused(self) -> frozenset[Partition]:
        """Nothing: neither topic needs the other."""
        return frozenset()

    def finish(self) -> Mapping[Partition, int]:
        """Books what was gathered."""
        self._book()
        if self._letters is not None:
            self._letters.close()
            self._letters = None
        return dict(self._written)

    def _take_auctions(self, arrivals: Sequence[tuple[Record, Interaction]]) -> None:
        for record, event in arrivals:
            try:
                auction, charges = auction_of(event), charges_of(event)
            except InputError as error:
                self._refuse(record, error)
            else:
                if auction is not None:
                    self._make_room(len(auction.entries))
                    self._count(record, auction)
                    self._gathered.charges += [(record, charge) for charge in charges]
            self._passed(record.place, record.offset + 1)

    def _take_clicks(self, arrivals: Sequence[tuple[Record, Click]]) -> None:
        versions = self._versions({click.auction_id for _, click in arrivals if not click.model_version})
        for record, click in arrivals:
            self._make_room(0)
            version = click.model_version or versions.get(click.auction_id, "")
            try:
                self._gathered.charges.append((record, charge_of(click, version)))
            except InputError as error:
                self._refuse(record, error)
            self._passed(record.place, record.offset + 1)

    def _versions(self, auctions: set[str]) -> dict[str, str]:
        """Model versions of auctions whose links did not say it, as far as they are known by now."""
        found = {auction.id: auction.model_version for _, auction in self._gathered.auctions if auction.id in auctions}
        missing = auctions - found.keys()
        return found | (model_versions(self._database, missing) if missing else {})

    def _passed(self, partition: Partition, offset: int) -> None:
        """What lies before the offset is gathered, booked or set aside."""
        after = self._after[partition.number]
        after[partition] = max(offset, after[partition])

    def _count(self, record: Record, auction: Auction) -> None:
        self._gathered.auctions.append((record, auction))
        self._gathered.entries += len(auction.entries)

    def _make_room(self, entries: int) -> None:
        """Books what is gathered, where a transaction would grow too large with more."""
        s, gathered = self._settings, self._gathered
        if gathered.entries + entries > s.entries or len(gathered.charges) >= s.charges:
            self._book()

    def _offsets(self) -> dict[Partition, int]:
        return {partition: offset for after in self._after.values() for partition, offset in after.items()}

    def _book(self) -> None:
        """One transaction. What it cannot do now is tried again by the loop, from where the database says; what it
        cannot do at all goes to the dead letters."""
        gathered, offsets = self._gathered, self._offsets()
        changed = [
            Offset(consumer=consumer_of(self._identity, p.topic), partition=p.number, next_offset=offset)
            for p, offset in offsets.items()
            if self._written.get(p) != offset
        ]
        outcomes: list[Charged] = []
        while gathered.auctions or gathered.charges or changed:
            try:
                auctions, charges = [a for _, a in gathered.auctions], [c for _, c in gathered.charges]
                outcomes = self._ledger.book(auctions, charges, changed)
                break
            except BadAuctions as error:
                self._set_aside(error, [record for record, _ in gathered.auctions])
            except BadEvents as error:
                self._set_aside(error, [record for record, _ in gathered.charges])
            except self.transient:
                raise
            except Exception as error:
                # Records of several batches are in it: none of them may be blamed for what nobody planned for.
                raise WorkerStopped(f"worker {self.name}: {type(error).__name__} while booking") from error
        self._gathered, self._since = _Gathered(), None
        self._written.update(offsets)
        self.metrics.auctions.inc(len(gathered.auctions))
        for (_, event), outcome in zip(gathered.charges, outcomes, strict=True):
            self.metrics.booked(event, outcome)
            if outcome.new:
                self._told(event, outcome)

    def _set_aside(self, error: BadEvents, records: Sequence[Record]) -> None:
        """Takes out what these records would count or charge, each record as a whole."""
        bad = {(records[index].place, records[index].offset): (records[index], why) for index, why in error.rejected}
        for record, why in bad.values():
            self._refuse(record, why)
        if isinstance(error, BadAuctions):
            self._gathered.auctions = [g for g in self._gathered.auctions if (g[0].place, g[0].offset) not in bad]
        self._gathered.charges = [g for g in self._gathered.charges if (g[0].place, g[0].offset) not in bad]

    def _refuse(self, record: Record, error: InputError) -> None:
        self._letters = self._letters or self._log.producer()
        bury(self._letters, record, error).result(BURY_S)
        self.metrics.refused.labels(record.topic).inc()
        log.error(
            "set aside",
            worker=self.name,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=str(error)[:200],
        )


def consumer_of(identity: str, topic: str) -> str:
    """Under which name the database keeps how far a topic of that log was read."""
    return f"{GROUP}:{identity}:{topic}"


def behind(event_log: EmbeddedLog, database: Database) -> dict[Partition, int]:
    """How many records of each partition are not booked yet."""
    ledger, identity = Ledger(database), event_log.identity()
    places = [Partition(topic, n) for topic in ChargingTask.topics for n in range(event_log.topic(topic).partitions)]
    read = {p: ledger.next_offset(consumer_of(identity, p.topic), p.number) or 0 for p in places}
    return {place: max(0, event_log.end(place) - offset) for place, offset in read.items()}
