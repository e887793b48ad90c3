"""The ledger worker: books the auctions and clicks of the event log. It is the only writer of spend.

Implements `streaming.workers.task.Task`. How far it has read is stored in the database, in the transaction that charges
and that compares the stored offsets with those this worker started from: of two workers that own one partition, the
slower one is fenced. The offsets that its consumer group commits are for display. Records that the ledger refuses for
good go to the dead letters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mechanism.errors import ConfigError, InputError
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.entries import (
    Auction,
    BadAuctions,
    BadEvents,
    ChargeEvent,
    ChargeResult,
    Offset,
    auction_of,
    charge_of_click,
    charges_of_interaction,
)
from streaming.dead_letters import dead_letter
from streaming.events import Click, Interaction
from streaming.log import EventLog, Fenced, LogProducer, Partition, Record
from streaming.topics import CLICKS, INTERACTIONS
from streaming.workers.task import Batch, WorkerStopped

log = structlog.get_logger(__name__)

GROUP = "ledger"
DEAD_LETTER_S = 30.0
LARGEST = 9_000
"""Most charges and most entries of a transaction: `Ledger.book` takes 10,000, and one interaction adds up to 100."""
OnCharge: TypeAlias = Callable[[ChargeEvent, ChargeResult], None]
"""Called for every event that was new, on the worker's thread."""


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """The size of a transaction: what arrives within `gathered_s` seconds, up to a number of charges and of entries.

    An entry is one candidate ad of an auction.
    """

    gathered_s: float = 0.2
    charges: int = 2_000
    entries: int = 6_000

    def __post_init__(self) -> None:
        if self.gathered_s < 0:
            raise ConfigError("ledger.gathered_s", self.gathered_s, "give 0 seconds or more")
        for name, given in (("charges", self.charges), ("entries", self.entries)):
            if not 1 <= given <= LARGEST:
                raise ConfigError(f"ledger.{name}", given, f"give 1 to {LARGEST}")


class LedgerMetrics:
    """Counters of what the ledger worker booked and refused."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "llm_auction_ledger_"
        self.revenue = Counter(prefix + "revenue_micros", "Charged.", ("currency", "pricing"), registry=registry)
        self.auctions = Counter(prefix + "auctions", "Auctions booked, including repeated ones.", registry=registry)
        self.charges = Counter(prefix + "charges", "Events booked, by result.", ("fate",), registry=registry)
        self.refused = Counter(prefix + "refused", "Records sent to the dead letters.", ("topic",), registry=registry)

    def booked(self, event: ChargeEvent, result: ChargeResult) -> None:
        """Count an event that is on record."""
        label = (result.reason.partition(":")[0] or "charged") if result.new else "repeated"
        self.charges.labels(label).inc()
        if result.new:
            self.revenue.labels(event.currency, event.kind.value).inc(result.charged_micros)


@dataclass(slots=True)
class _Gathered:
    """The content of the next transaction, each part with the record that it comes from."""

    auctions: list[tuple[Record, Auction]] = field(default_factory=list)
    charges: list[tuple[Record, ChargeEvent]] = field(default_factory=list)
    entries: int = 0

    def add_auction(self, record: Record, auction: Auction) -> None:
        self.auctions.append((record, auction))
        self.entries += len(auction.entries)

    def keep_auctions(self, wanted: Callable[[Record], bool]) -> None:
        self.auctions = [(record, auction) for record, auction in self.auctions if wanted(record)]
        self.entries = sum(len(auction.entries) for _, auction in self.auctions)

    def keep_charges(self, wanted: Callable[[Record], bool]) -> None:
        self.charges = [(record, event) for record, event in self.charges if wanted(record)]


class LedgerTask:
    """Books the events of a log in a database."""

    name = GROUP
    topics = (INTERACTIONS, CLICKS)
    transient: tuple[type[Exception], ...] = (OperationalError, InterfaceError, PoolTimeout)

    def __init__(
        self,
        event_log: EventLog,
        database: Database,
        settings: LedgerSettings | None = None,
        *,
        on_charge: OnCharge = lambda event, result: None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._log = event_log
        self._ledger = Ledger(database)
        self._settings = settings or LedgerSettings()
        self._on_charge = on_charge
        self.metrics = LedgerMetrics(registry or CollectorRegistry())
        self._read: dict[Partition, int] = {}
        """The offset after the last record gathered."""
        self._booked: dict[Partition, int | None] = {}
        """The offset that the database holds; None: none yet."""
        self._gathered = _Gathered()
        self._gathering_since: float | None = None
        self._dead_letters: LogProducer | None = None
        self._identity = ""

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Start at the offsets in the database, and forget what was gathered of these partitions and not booked."""
        self._identity = self._identity or self._log.identity()
        again = set(partitions)
        self._gathered.keep_auctions(lambda record: record.place not in again)
        self._gathered.keep_charges(lambda record: record.place not in again)
        for partition in partitions:
            stored = self._ledger.next_offset(consumer_of(self._identity, partition.topic), partition.number)
            self._booked[partition], self._read[partition] = stored, stored or 0
        return {partition: self._read[partition] for partition in partitions}

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Gather a batch, auctions first, and book when it is time."""
        self._gather_interactions(
            [(record, event) for record, event in batch.arrivals if isinstance(event, Interaction)]
        )
        self._gather_clicks([(record, event) for record, event in batch.arrivals if isinstance(event, Click)])
        for partition, offset in batch.after.items():
            self._advance(partition, offset)
        now = time.monotonic()
        if self._unbooked():
            self._gathering_since = now if self._gathering_since is None else self._gathering_since
            if now - self._gathering_since >= self._settings.gathered_s:
                self._book()
        return self._finished()

    def finish(self) -> Mapping[Partition, int]:
        """Book what was gathered."""
        self._book()
        if self._dead_letters is not None:
            self._dead_letters.close()
            self._dead_letters = None
        return self._finished()

    def _gather_interactions(self, arrivals: Sequence[tuple[Record, Interaction]]) -> None:
        for record, event in arrivals:
            try:
                auction, charges = auction_of(event), charges_of_interaction(event)
            except InputError as error:
                self._refuse(record, error)
            else:
                if auction is not None:
                    self._book_if_full(len(auction.entries))
                    self._gathered.add_auction(record, auction)
                    self._gathered.charges += [(record, charge) for charge in charges]
            self._advance(record.place, record.offset + 1)

    def _gather_clicks(self, arrivals: Sequence[tuple[Record, Click]]) -> None:
        versions = self._model_versions({click.auction_id for _, click in arrivals if not click.model_version})
        for record, click in arrivals:
            self._book_if_full(0)
            version = click.model_version or versions.get(click.auction_id, "")
            try:
                self._gathered.charges.append((record, charge_of_click(click, version)))
            except InputError as error:
                self._refuse(record, error)
            self._advance(record.place, record.offset + 1)

    def _model_versions(self, auctions: set[str]) -> dict[str, str]:
        """Return the model versions of auctions whose links do not name it, if gathered or on record."""
        found = {auction.id: auction.model_version for _, auction in self._gathered.auctions if auction.id in auctions}
        missing = auctions - found.keys()
        return found | (self._ledger.model_versions(missing) if missing else {})

    def _advance(self, partition: Partition, offset: int) -> None:
        """Note that every record before the offset is gathered, booked or a dead letter."""
        self._read[partition] = max(offset, self._read[partition])

    def _book_if_full(self, entries: int) -> None:
        """Book what is gathered if a transaction with `entries` more, or with one more charge, would be too large."""
        gathered = self._gathered
        if gathered.entries + entries > self._settings.entries or len(gathered.charges) >= self._settings.charges:
            self._book()

    def _unbooked(self) -> dict[Partition, int]:
        """Return the offsets that the next transaction stores."""
        return {p: offset for p, offset in self._read.items() if (self._booked[p] or 0) != offset}

    def _finished(self) -> dict[Partition, int]:
        return {partition: offset for partition, offset in self._booked.items() if offset is not None}

    def _book(self) -> None:
        """Book what is gathered, in one transaction.

        The run loop retries transient errors, from the offsets in the database. What the ledger refuses goes to the
        dead letters.

        Raises:
            Fenced: if another worker has stored other offsets of a partition; nothing was booked.
            WorkerStopped: if booking fails with an error that is neither transient nor one record's fault.
        """
        gathered, offsets = self._gathered, self._unbooked()
        changed = [
            Offset(
                consumer=consumer_of(self._identity, p.topic),
                partition=p.number,
                next_offset=offset,
                previous=self._booked[p],
            )
            for p, offset in offsets.items()
        ]
        results: list[ChargeResult] = []
        while gathered.auctions or gathered.charges or changed:
            try:
                auctions, events = [a for _, a in gathered.auctions], [c for _, c in gathered.charges]
                results = self._ledger.book(events, auctions=auctions, offsets=changed)
                break
            except BadAuctions as error:
                self._remove_refused(error, [record for record, _ in gathered.auctions])
            except BadEvents as error:
                self._remove_refused(error, [record for record, _ in gathered.charges])
            except Fenced:
                raise
            except self.transient:
                raise
            except Exception as error:
                # The transaction holds records of several batches, so an unknown error cannot be blamed on one of them.
                raise WorkerStopped(f"worker {self.name}: {type(error).__name__} while booking") from error
        self._gathered, self._gathering_since = _Gathered(), None
        self._booked.update(offsets)
        self.metrics.auctions.inc(len(gathered.auctions))
        for (_, event), result in zip(gathered.charges, results, strict=True):
            self.metrics.booked(event, result)
            if result.new:
                self._on_charge(event, result)

    def _remove_refused(self, error: BadEvents, records: Sequence[Record]) -> None:
        """Send the refused records to the dead letters, and remove what they would charge, or count and charge."""
        bad = {(records[index].place, records[index].offset): (records[index], why) for index, why in error.rejected}
        for record, why in bad.values():
            self._refuse(record, why)
        if isinstance(error, BadAuctions):
            self._gathered.keep_auctions(lambda record: (record.place, record.offset) not in bad)
        self._gathered.keep_charges(lambda record: (record.place, record.offset) not in bad)

    def _refuse(self, record: Record, error: InputError) -> None:
        self._dead_letters = self._dead_letters or self._log.producer()
        dead_letter(self._dead_letters, record, error).result(DEAD_LETTER_S)
        self.metrics.refused.labels(record.topic).inc()
        log.error(
            "ledger.record_refused",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=str(error)[:200],
        )


def consumer_of(identity: str, topic: str) -> str:
    """Return the name under which the database stores how far a topic of the log `identity` was read."""
    return f"{GROUP}:{identity}:{topic}"


def behind(event_log: EventLog, database: Database) -> dict[Partition, int]:
    """Return the number of records of each partition that are not booked yet."""
    ends, booked = positions(event_log, Ledger(database))
    return {place: max(0, end - booked[place]) for place, end in ends.items()}


def positions(event_log: EventLog, ledger: Ledger) -> tuple[Mapping[Partition, int], dict[Partition, int]]:
    """Return the end of each partition, and the offset up to which it is booked."""
    with event_log.consumer("", LedgerTask.topics) as consumer:
        ends = consumer.ends()
    identity = event_log.identity()
    return ends, {p: ledger.next_offset(consumer_of(identity, p.topic), p.number) or 0 for p in ends}
