"""The sender of the router's spool: sends the events on disk to the log in order, and removes them once it has them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from streaming.embedded import EmbeddedLog
from streaming.file_lock import FileLock
from streaming.log import EventLog, LogProducer, Partition, Record
from streaming.topics import Topic

log = structlog.get_logger(__name__)

SPOOL = Topic("spool", 1, None)
PARTITION = Partition(SPOOL.name, 0)
TOPIC_HEADER = "topic"
BATCH = 1_000
LINGER_S = 0.2
"""How long the sender waits between small batches: the log's sync costs more than their events."""
SEND_S = 30.0
TAKE_OVER_S = 0.2
"""How often a sender tries to take over a spool that another process sends."""
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)


class SpoolSender:
    """A thread that sends a spool to a log. Of several processes with one spool, one sends at a time.

    `topics` are created as soon as the log can be reached.
    """

    def __init__(
        self, folder: Path, spool: EmbeddedLog, target: EventLog, topics: Sequence[Topic], metrics: ProducerMetrics
    ) -> None:
        self._spool = spool
        self._target = target
        self._topics = topics
        self._metrics = metrics
        self._owner = FileLock(folder / "sender.lock")
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self.sent_to = spool.start(PARTITION)
        """The offset of the oldest event that the log may not have."""
        self._thread = threading.Thread(target=self._run, name="event sender", daemon=True)

    def start(self) -> None:
        """Start to send, beginning with the events that an earlier process left."""
        self._thread.start()

    def notify(self) -> None:
        """Report that the spool has new events."""
        self._arrived.set()

    def close(self, within_s: float) -> bool:
        """Send the rest for at most `within_s` seconds, and end; return whether the thread has ended.

        Stop writing to the spool before this call.
        """
        self._closing.set()
        self._arrived.set()
        self._thread.join(within_s)
        self._abandoned.set()
        self._thread.join(SEND_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        """Send until closed, with growing pauses while the log is unreachable."""
        failures = 0
        while not self._abandoned.is_set():
            try:
                self._send_all()
                return
            except Exception as error:
                # After any error the events are still on disk, so another attempt loses none.
                self._metrics.failures.inc()
                log.warning("events.not_sent", reason=f"{type(error).__name__}: {error}"[:200])
                if self._closing.is_set():
                    return
                self._closing.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1

    def _send_all(self) -> None:
        """Send until this sender is closed and everything is sent.

        The errors of an unreachable log propagate. The next call opens another producer, as a failure may leave an
        idempotent one unusable.
        """
        if not self._take_over():
            return
        with ExitStack() as stack:
            stack.callback(self._owner.free)
            consumer = stack.enter_context(self._spool.consumer("", [SPOOL.name]))
            target: LogProducer | None = None
            while not self._abandoned.is_set():
                self._arrived.clear()
                ending = self._closing.is_set()  # read before the poll, which then sees everything written
                records = consumer.poll(0, BATCH)
                self.sent_to = consumer.position(PARTITION) - len(records)
                if records:
                    if target is None:
                        self._target.create(self._topics)
                        target = self._target.producer()
                        stack.callback(target.close)
                    self._deliver(target, records)
                    self.sent_to = consumer.position(PARTITION)
                    self._spool.trim(PARTITION, self.sent_to)
                    if len(records) < BATCH:
                        self._closing.wait(LINGER_S)
                elif ending:
                    return
                else:
                    self._arrived.wait(1.0)

    def _take_over(self) -> bool:
        """Wait until no other process sends this spool; return False if this sender is closed before that."""
        while not self._owner.take(wait=False):
            if self._closing.is_set():
                return False
            self.sent_to = self._spool.start(PARTITION)
            self._closing.wait(TAKE_OVER_S)
        return True

    def _deliver(self, target: LogProducer, records: Sequence[Record]) -> None:
        for record in records:
            topic = dict(record.headers)[TOPIC_HEADER].decode()
            target.append(topic, record.key, record.value)
        target.flush(SEND_S)
        self._metrics.sent.inc(len(records))


class ProducerMetrics:
    """Prometheus metrics of a producer.

    `waiting` is `spooled` minus `sent`, plus the events that an earlier process left. `dropped` stays 0 unless the disk
    stops writing.
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
