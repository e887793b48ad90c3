"""How far the ledger has come: which events of this router are booked, and for how long the others have waited.

An event passes three places: this router's spool, the event log, the database. A sample notes how many events the
router had accepted at a time; when the log holds as many, the sample gets the log's ends, and when the ledger has read
up to these, everything before the sample is booked.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.worker import positions
from streaming.log import EventLog, Partition
from streaming.producer import EventProducer

MOST_SAMPLES = 2_000
MARGIN_S = 1.0
"""How long an event may take from its time to the producer."""


@dataclass(slots=True)
class _Sample:
    at: float
    accepted: int
    ends: Mapping[Partition, int] | None = None


class LedgerProgress:
    """The ledger's progress through the events of one router. `measure` runs on one thread at a time."""

    def __init__(
        self, event_log: EventLog, database: Database, events: EventProducer, clock: Callable[[], float] = time.time
    ) -> None:
        self._log = event_log
        self._ledger = Ledger(database)
        self._events = events
        self._clock = clock
        self._samples: deque[_Sample] = deque()
        self.booked_until = clock()
        """Unix time before which every event of this router is booked."""

    @property
    def lag_s(self) -> float:
        """For how long the oldest event may have waited for the ledger; grows while log or database is away."""
        return max(0.0, self._clock() - self.booked_until)

    def measure(self) -> int:
        """Update `booked_until`, and return the number of records in the log that are not booked."""
        now, accepted = self._clock(), self._events.accepted
        if len(self._samples) < MOST_SAMPLES:
            self._samples.append(_Sample(now - MARGIN_S, accepted))
        in_log = self._events.accepted - self._events.buffered - self._events.waiting
        ends, booked = positions(self._log, self._ledger)
        for sample in self._samples:
            if sample.ends is None and sample.accepted <= in_log:
                sample.ends = ends
        while self._samples and (known := self._samples[0].ends) is not None:
            if any(booked.get(place, 0) < end for place, end in known.items()):
                break
            self.booked_until = max(self.booked_until, self._samples.popleft().at)
        return sum(max(0, end - booked[place]) for place, end in ends.items())
