"""The router's event producer: accepts events at once, keeps them on disk until the log has them, sends them in order.

`put` only queues. One thread writes the queue to a spool on this machine (an embedded log of its own), with one sync
for everything that arrived meanwhile. Another sends the spool to the log and removes what the log has acknowledged,
however long the log was unreachable and whenever the process is killed. The last events may be sent twice; their
`event_id` identifies repetitions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from mechanism.errors import AuctionError, InputError
from streaming.codec import encode, topic_of
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent
from streaming.file_lock import FileLock
from streaming.log import EventLog, LogProducer, LogUnavailable, Partition, Record
from streaming.topics import Topic

log = structlog.get_logger(__name__)

SPOOL = Topic("spool", 1, None)
_PARTITION = Partition(SPOOL.name, 0)
UNHURRIED_S = 0.05
"""How long an event that no caller waits for may be held back, to share its sync with others."""
BATCH = 1_000
LINGER_S = 0.2
"""How long the sender waits between small batches: the log's sync costs more than their events."""
SEND_S = 30.0
TAKE_OVER_S = 0.2
"""How often a producer tries to become its spool's sender while another process is."""
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_TOPIC = "topic"
_Put = tuple[AnyEvent, Future[None] | None]


class EventProducer:
    """The producer of one process; several processes may share a spool, and one of them sends it.

    `buffered` bounds the events in memory: beyond it, when the disk no longer writes, an event is counted as dropped
    and logged. `topics` are created as soon as the log can be reached. Metrics go to `registry`.
    """

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
        self._spool = EmbeddedLog(spool, durable=durable)
        self._spool.create([SPOOL])
        self._sending = FileLock(spool / "sender.lock")
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
        self._sent_to = self._spool.start(_PARTITION)
        self.metrics = ProducerMetrics(registry or CollectorRegistry())
        self.metrics.buffered.set_function(lambda: self.buffered)
        self.metrics.waiting.set_function(lambda: self.waiting)
        self._writer = threading.Thread(target=self._write, name="event spool", daemon=True)
        self._sender = threading.Thread(target=self._send, name="event sender", daemon=True)
        self._writer.start()
        self._sender.start()

    def put(self, event: AnyEvent) -> None:
        """Accept an event; never waits, never raises. It is on disk a moment later."""
        self._take(event, None)

    def put_durably(self, event: AnyEvent) -> Future[None]:
        """Accept an event; the future is done once it is on disk.

        The future fails with LogUnavailable if the event cannot be written now (it is kept in memory and tried again),
        and with InputError if it is no valid event.
        """
        future: Future[None] = Future()
        self._take(event, future)
        self._hurry.set()
        return future

    @property
    def waiting(self) -> int:
        """Number of events on disk that the log does not have yet."""
        return max(0, self._written_to - self._sent_to)

    @property
    def buffered(self) -> int:
        """Number of events that are not on disk yet."""
        return len(self._incoming) + len(self._held)

    def maintain(self) -> None:
        """Overwrite what was sent and is still on disk; call it every hour or so."""
        self._spool.maintain()

    def close(self, within_s: float = 10.0) -> None:
        """Write what is buffered, send for at most `within_s` seconds, and end.

        The rest stays on disk for the next producer with this spool. Put nothing afterwards.
        """
        self._closing.set()
        self._hurry.set()
        self._writer.join()
        self._arrived.set()
        self._sender.join(within_s)
        self._abandoned.set()
        self._sender.join(SEND_S)
        if self.waiting:
            log.warning("events.left_in_spool", events=self.waiting)
        if not self._sender.is_alive():
            self._spool.close()

    def _take(self, event: AnyEvent, future: Future[None] | None) -> None:
        if self.buffered >= self._buffered:
            self.metrics.dropped.inc()
            log.error("events.dropped", reason="the spool's disk does not write", kind=topic_of(event), key=event.key)
            if future is not None:
                future.set_exception(LogUnavailable("the buffer of events is full: see to the spool's disk"))
            return
        self._incoming.append((event, future))

    def _write(self) -> None:
        """Run the writer's thread."""
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
                    log.error("events.lost", reason="the spool cannot be written", events=len(self._held))
                    self.metrics.dropped.inc(len(self._held))
                return
            if self._held:
                time.sleep(0.2)

    def _unwritten(self, spool: LogProducer, batch: list[_Put]) -> list[_Put]:
        """Write events; return those that the disk does not accept now."""
        last = None
        refused: dict[int, InputError] = {}
        for i, (event, _) in enumerate(batch):
            topic, key = topic_of(event), event.key.encode(errors="replace")
            try:
                last = spool.append(SPOOL.name, key, encode(event), ((_TOPIC, topic.encode()),))
            except InputError as error:
                refused[i] = error
                self.metrics.refused.inc()
                log.error("events.refused", kind=topic, key=event.key, reason=str(error)[:200])
        try:
            spool.flush(SEND_S)
        except AuctionError as error:
            log.error("events.not_on_disk", reason=str(error), events=len(batch))
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
        """Run the sender's thread: without end, with growing pauses while the log is unreachable."""
        failures = 0
        while not self._abandoned.is_set():
            try:
                self._send_all()
                return
            except Exception as error:
                # Whatever it is, the events stay on disk: nothing is lost but time.
                self.metrics.failures.inc()
                reason = f"{type(error).__name__}: {error}"[:200]
                log.warning("events.not_sent", reason=reason, events=self.waiting)
                if self._closing.is_set():
                    return
                self._closing.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1

    def _send_all(self) -> None:
        """Send until this producer is closed and everything is sent.

        Raises whatever the log does while it is unreachable. The next call opens another producer, as a failure may
        leave an idempotent one unusable.
        """
        if not self._become_sender():
            return
        with ExitStack() as stack:
            stack.callback(self._sending.free)
            consumer = stack.enter_context(self._spool.consumer("", [SPOOL.name]))
            target: LogProducer | None = None
            while not self._abandoned.is_set():
                self._arrived.clear()
                ended = not self._writer.is_alive()  # read before the poll, which then sees everything written
                records = consumer.poll(0, BATCH)
                self._sent_to = consumer.position(_PARTITION) - len(records)
                if records:
                    if target is None:
                        self._target.create(self._topics)
                        target = self._target.producer()
                        stack.callback(target.close)
                    self._deliver(target, records)
                    self._sent_to = consumer.position(_PARTITION)
                    self._spool.trim(_PARTITION, self._sent_to)
                    if len(records) < BATCH:
                        self._closing.wait(LINGER_S)
                elif ended:
                    return
                else:
                    self._arrived.wait(1.0)

    def _become_sender(self) -> bool:
        """Wait until no other process sends this spool; return False if this producer ends before that."""
        while not self._sending.take(wait=False):
            if not self._writer.is_alive() or self._abandoned.is_set():
                return False
            self._sent_to = self._spool.start(_PARTITION)
            self._abandoned.wait(TAKE_OVER_S)
        return True

    def _deliver(self, target: LogProducer, records: Sequence[Record]) -> None:
        for record in records:
            topic = dict(record.headers)[_TOPIC].decode()
            target.append(topic, record.key, record.value)
        target.flush(SEND_S)
        self.metrics.sent.inc(len(records))


class ProducerMetrics:
    """Prometheus metrics of a producer.

    What waits is what was spooled, less what was sent, plus what an earlier process left. `dropped` stays 0 unless the
    disk stops writing.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "llm_auction_events_"
        self.buffered = Gauge(prefix + "buffered", "Events in memory that are not on disk yet.", registry=registry)
        self.waiting = Gauge(prefix + "waiting", "Events on disk that the log does not have yet.", registry=registry)
        self.spooled = Counter(prefix + "spooled", "Events written to the spool.", registry=registry)
        self.sent = Counter(
            prefix + "sent", "Events acknowledged by the log, including repeated ones.", registry=registry
        )
        self.dropped = Counter(prefix + "dropped", "Events lost: the disk did not write.", registry=registry)
        self.refused = Counter(prefix + "refused", "Events that were not valid.", registry=registry)
        self.failures = Counter(prefix + "send_failures", "Attempts to send that failed.", registry=registry)


def _resolve(future: Future[None] | None, error: AuctionError | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
