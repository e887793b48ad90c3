"""Events of a router on their way to the log: taken at once, kept on disk until the log has them, sent in their order.

`put` only queues. One thread writes what came to a spool on this machine (an embedded log of its own), with one sync
for all that came meanwhile; another sends the spool to the log, and starts where it stopped after any outage of the
log, or kill of the process. Sending may repeat the last events; `event_id` tells repetitions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from mechanism.errors import AuctionError, InputError
from streaming.addresses import ensure
from streaming.codec import encode, topic_of
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent
from streaming.log import EventLog, LogProducer, LogUnavailable, Partition, Record
from streaming.topics import Topic

log = structlog.get_logger(__name__)

SPOOL = Topic("spool", 1, None)
_PARTITION = Partition(SPOOL.name, 0)
SEGMENT_BYTES = 8 << 20
UNHURRIED_S = 0.05
"""How long an event that nobody waits for may be held back, to share its sync with others."""
BATCH = 1_000
LINGER_S = 0.2
"""How long the sender lets events come together where few come: syncs of the log cost more than what they hold."""
SEND_S = 30.0
HANDOVER_S = 1.0
"""More than a spool takes to pass from a process that ends to another."""
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_TOPIC = "topic"
_GROUP = "sender"
_Put = tuple[AnyEvent, Future[None] | None]


class EventProducer:
    """The producer of one process. `buffered` bounds the events that wait for the disk: past it, which takes a disk
    that stands still, an event is counted as dropped and said so in the log. `topics` are created where the log has
    them not, once it can be reached. Metrics go to `registry`."""

    def __init__(
        self,
        spool: Path,
        target: EventLog,
        *,
        topics: Sequence[Topic] = (),
        buffered: int = 100_000,
        registry: CollectorRegistry | None = None,
        durable: bool = True,
    ) -> None:
        self._spool = EmbeddedLog(spool, durable=durable, segment_bytes=SEGMENT_BYTES)
        self._spool.create([SPOOL])
        self._target = target
        self._topics = topics
        self._buffered = buffered
        self._incoming: deque[_Put] = deque()
        self._held: list[_Put] = []
        self._hurry = threading.Event()
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._written_to = self._spool.end(_PARTITION)
        self._sent_to = self._spool.committed(_GROUP, _PARTITION) or 0
        self.metrics = ProducerMetrics(registry or CollectorRegistry())
        self.metrics.buffered.set_function(lambda: self.buffered)
        self.metrics.waiting.set_function(lambda: self.waiting)
        self._writer = threading.Thread(target=self._write, name="event spool", daemon=True)
        self._sender = threading.Thread(target=self._send, name="event sender", daemon=True)
        self._writer.start()
        self._sender.start()

    def put(self, event: AnyEvent) -> None:
        """Takes an event; never waits, never raises. It is on disk a moment later."""
        self._take(event, None)

    def put_durably(self, event: AnyEvent) -> Future[None]:
        """Takes an event; the future is done once it is on disk, and fails with LogUnavailable where it cannot be
        written now (it is kept in memory and tried again), or InputError for what is no valid event."""
        future: Future[None] = Future()
        self._take(event, future)
        self._hurry.set()
        return future

    @property
    def waiting(self) -> int:
        """Events on disk that the log does not have yet."""
        return max(0, self._written_to - self._sent_to)

    @property
    def buffered(self) -> int:
        """Events that are not on disk yet."""
        return len(self._incoming) + len(self._held)

    def close(self, within_s: float = 10.0) -> None:
        """Writes what is buffered, sends for at most `within_s` seconds, and ends; the rest stays on disk for the next
        producer with this spool. Nothing may be put afterwards."""
        self._closing.set()
        self._hurry.set()
        self._writer.join()
        self._arrived.set()
        self._sender.join(within_s)
        self._abandoned.set()
        self._sender.join(SEND_S)
        if self.waiting:
            log.warning("events wait for the next start", events=self.waiting)
        if not self._sender.is_alive():
            self._spool.close()

    def _take(self, event: AnyEvent, future: Future[None] | None) -> None:
        if self.buffered >= self._buffered:
            self.metrics.dropped.inc()
            log.error("event dropped: the spool's disk stands still", kind=topic_of(event), key=event.key)
            if future is not None:
                future.set_exception(LogUnavailable("the buffer of events is full: see to the spool's disk"))
            return
        self._incoming.append((event, future))

    def _write(self) -> None:
        """The writer's thread."""
        spool = self._spool.producer()
        while True:
            self._hurry.wait(UNHURRIED_S)
            self._hurry.clear()
            closing = self._closing.is_set()
            while self._incoming:
                self._held.append(self._incoming.popleft())
            if self._held:
                self._held = self._unwritten(spool, self._held)
            if closing:
                if self._held:
                    log.error("events lost: the spool cannot be written", events=len(self._held))
                    self.metrics.dropped.inc(len(self._held))
                return
            if self._held:
                time.sleep(0.2)

    def _unwritten(self, spool: LogProducer, batch: list[_Put]) -> list[_Put]:
        """Writes events, and gives back those that the disk does not take now."""
        last = None
        refused: dict[int, InputError] = {}
        for i, (event, _) in enumerate(batch):
            topic, key = topic_of(event), event.key.encode(errors="replace")
            try:
                last = spool.append(SPOOL.name, key, encode(event), ((_TOPIC, topic.encode()),))
            except InputError as error:
                refused[i] = error
                self.metrics.refused.inc()
                log.error("event refused", kind=topic, key=event.key, reason=str(error)[:200])
        try:
            spool.flush(SEND_S)
        except AuctionError as error:
            log.error("events not on disk", reason=str(error), events=len(batch))
            for i, (_, future) in enumerate(batch):
                _resolve(future, refused.get(i, error))
            return [(event, None) for i, (event, _) in enumerate(batch) if i not in refused]
        if last is not None:
            self._written_to = last.result(0).offset + 1
        self.metrics.spooled.inc(len(batch) - len(refused))
        for i, (_, future) in enumerate(batch):
            _resolve(future, refused.get(i))
        self._arrived.set()
        return []

    def _send(self) -> None:
        """The sender's thread: goes on for ever, with growing pauses while the log is away."""
        failures = 0
        while not self._abandoned.is_set():
            try:
                self._send_all()
                return
            except Exception as error:
                # Whatever it is, the events stay on disk: nothing is lost but time.
                self.metrics.failures.inc()
                log.warning("events not sent", reason=f"{type(error).__name__}: {error}"[:200], events=self.waiting)
                if self._closing.is_set():
                    return
                self._closing.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1

    def _send_all(self) -> None:
        """Sends until it is closed and all is sent. Raises where the log is away; the next call begins anew, with a
        new producer, as an idempotent one may be spoilt by a failure."""
        with self._spool.consumer(_GROUP, [SPOOL.name]) as consumer:
            target: LogProducer | None = None
            began = time.monotonic()
            try:
                while not self._abandoned.is_set():
                    self._arrived.clear()
                    ended = not self._writer.is_alive()  # asked before the poll, which then sees all that was written
                    began = began if ended else time.monotonic()
                    records = consumer.poll(0, BATCH)
                    if not consumer.assignment():
                        # Another process sends this spool, ours included, unless it is just ending.
                        if ended and time.monotonic() - began > HANDOVER_S:
                            return
                        self._sent_to = consumer.committed(_PARTITION) or 0
                        time.sleep(0.05)
                        continue
                    self._sent_to = consumer.position(_PARTITION) - len(records)
                    if records:
                        target = target or self._reached()
                        self._deliver(target, records)
                        consumer.commit()
                        self._sent_to = consumer.position(_PARTITION)
                        self._spool.trim(_PARTITION, self._sent_to)
                        if len(records) < BATCH:
                            self._closing.wait(LINGER_S)
                    elif ended:
                        return
                    else:
                        self._arrived.wait(1.0)
            finally:
                if target is not None:
                    target.close()

    def _reached(self) -> LogProducer:
        """The log's producer, for topics that are there."""
        ensure(self._target, self._topics)
        return self._target.producer()

    def _deliver(self, target: LogProducer, records: Sequence[Record]) -> None:
        for record in records:
            topic = dict(record.headers)[_TOPIC].decode()
            target.append(topic, record.key, record.value)
        target.flush(SEND_S)
        self.metrics.sent.inc(len(records))


class ProducerMetrics:
    """What a producer counts, in Prometheus' terms. Spooled less sent, plus what an earlier process left, is what
    waits; `dropped` stays 0 unless the disk stands still."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "llm_auction_events_"
        self.buffered = Gauge(prefix + "buffered", "Events in memory that are not on disk yet.", registry=registry)
        self.waiting = Gauge(prefix + "waiting", "Events on disk that the log does not have yet.", registry=registry)
        self.spooled = Counter(prefix + "spooled", "Events written to the spool.", registry=registry)
        self.sent = Counter(prefix + "sent", "Events acknowledged by the log, repetitions counted.", registry=registry)
        self.dropped = Counter(prefix + "dropped", "Events lost: the disk stood still.", registry=registry)
        self.refused = Counter(prefix + "refused", "Records that were no valid events.", registry=registry)
        self.failures = Counter(prefix + "send_failures", "Tries to send that failed.", registry=registry)


def _resolve(future: Future[None] | None, error: AuctionError | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
