"""The router's event producer: accepts events at once, keeps them on disk until the log has them, sends them in order.

`put` only queues an event. One thread writes the queue to a spool on this machine (a separate embedded log), with one
sync for all events that arrived since the last one. `streaming.spool` sends the spool to the log, also after the log
was unreachable or the process was killed. The last events may then be sent twice; consumers recognise them by their
`event_id`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from mechanism.errors import AuctionError, InputError
from streaming.codec import encode, topic_of
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent
from streaming.log import EventLog, LogProducer, LogUnavailable
from streaming.spool import PARTITION, SEND_S, SPOOL, TOPIC_HEADER, ProducerMetrics, SpoolSender
from streaming.topics import Topic

log = structlog.get_logger(__name__)

WRITE_DELAY_S = 0.05
"""How long an event that no caller waits for may be held back, to share its sync with others."""
_Put = tuple[AnyEvent, Future[None] | None]


class EventProducer:
    """The producer of one process; several processes may share a spool, and one of them sends it.

    `buffered` bounds the events in memory. When the disk does not write and the bound is reached, further events are
    dropped, counted and logged. `topics` are created as soon as the log can be reached. Metrics go to `registry`.
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
        self._buffered = buffered
        self._incoming: deque[_Put] = deque()
        self._held: list[_Put] = []
        self._accepted = 0
        self._write_now = threading.Event()
        self._closing = threading.Event()
        self._written_to = self._spool.end(PARTITION)
        self.metrics = ProducerMetrics(registry or CollectorRegistry())
        self._writer = threading.Thread(target=self._write, name="event spool", daemon=True)
        self._sender = SpoolSender(spool, self._spool, target, topics, self.metrics)
        self.metrics.buffered.set_function(lambda: self.buffered)
        self.metrics.waiting.set_function(lambda: self.waiting)
        self._writer.start()
        self._sender.start()

    def put(self, event: AnyEvent) -> None:
        """Accept an event, without waiting and without errors; it is written to the disk shortly afterwards."""
        self._enqueue(event, None)

    def put_durably(self, event: AnyEvent) -> Future[None]:
        """Accept an event; the future is done once it is on disk.

        The future fails with LogUnavailable if the event cannot be written now (it is kept in memory and tried again),
        and with InputError if it is no valid event.
        """
        future: Future[None] = Future()
        self._enqueue(event, future)
        self._write_now.set()
        return future

    @property
    def accepted(self) -> int:
        """Number of events accepted since the start; the log holds all but `buffered` and `waiting` of them."""
        return self._accepted

    @property
    def waiting(self) -> int:
        """Number of events on disk that the log does not have yet."""
        return max(0, self._written_to - self._sender.sent_to)

    @property
    def buffered(self) -> int:
        """Number of events that are not on disk yet."""
        return len(self._incoming) + len(self._held)

    def maintain(self) -> None:
        """Overwrite the events that were sent and are still on disk; call it about once an hour."""
        self._spool.maintain()

    def close(self, within_s: float = 10.0) -> None:
        """Write what is buffered, send for at most `within_s` seconds, and end.

        The rest stays on disk for the next producer with this spool. Put nothing afterwards.
        """
        self._closing.set()
        self._write_now.set()
        self._writer.join()
        if self._sender.close(within_s):
            self._spool.close()
        if self.waiting:
            log.warning("events.left_in_spool", events=self.waiting)

    def _enqueue(self, event: AnyEvent, future: Future[None] | None) -> None:
        if self.buffered >= self._buffered:
            self.metrics.dropped.inc()
            log.error("events.dropped", reason="the spool's disk does not write", kind=topic_of(event), key=event.key)
            if future is not None:
                future.set_exception(LogUnavailable("the buffer of events is full: see to the spool's disk"))
            return
        self._incoming.append((event, future))
        self._accepted += 1

    def _write(self) -> None:
        """Run the writer's thread."""
        spool = self._spool.producer()
        while True:
            self._write_now.wait(WRITE_DELAY_S)
            self._write_now.clear()
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
                last = spool.append(SPOOL.name, key, encode(event), ((TOPIC_HEADER, topic.encode()),))
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
        self._sender.notify()
        return []


def _resolve(future: Future[None] | None, error: AuctionError | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
