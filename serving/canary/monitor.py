"""The guard at work: reads the log, and keeps the version on probation or sends it back.

It holds no state of its own that matters: the windows come back from the log, the probation from the history.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import structlog

from mechanism.errors import InputError
from serving.canary.deployment import Deployment
from serving.canary.guard import GuardSettings, Verdict, judge
from serving.canary.samples import LiveWindows
from streaming.codec import EventError, decode
from streaming.log import Consumer, EventLog
from streaming.topics import CLICKS, INTERACTIONS

log = structlog.get_logger(__name__)

BACK = 10_000
"""Records of each partition that are read again at the start."""
BY = "guard"


class LogFeed:
    """Brings what the log holds into windows. Raises LogUnavailable while it is away."""

    def __init__(self, events: EventLog, windows: LiveWindows) -> None:
        self._windows = windows
        self._consumer: Consumer = events.consumer("", (INTERACTIONS, CLICKS))
        for partition, end in self._consumer.ends().items():
            self._consumer.seek(partition, max(0, end - BACK))

    def poll(self, timeout_s: float) -> int:
        """Takes what has come; how many records. What is no event is passed over: the workers set it aside."""
        records = self._consumer.poll(timeout_s)
        for record in records:
            if record.value is None:
                continue
            try:
                self._windows.add(decode(record.topic, record.value))
            except EventError:
                continue
        return len(records)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()


class Guard:
    """Judges the version on probation, if there is one."""

    def __init__(self, deployment: Deployment, windows: LiveWindows, settings: GuardSettings) -> None:
        self._deployment = deployment
        self._windows = windows
        self._settings = settings

    def look(self, now: datetime | None = None) -> tuple[str, Verdict] | None:
        """The version on probation and what was found; what has to follow is done. None where none is on probation."""
        change = self._deployment.probation()
        if change is None:
            return None
        now = now or datetime.now(UTC)
        routed = self._deployment.versions()
        new = next(version for version in routed if version.name == change.version)
        old = next((version for version in routed if version.name != change.version), None)
        before = self._windows.of(old.digest, now) if old is not None else []
        verdict = judge(before, self._windows.of(new.digest, now, change.at), self._settings)
        if verdict.decision == "wait":
            return new.name, verdict
        act = self._deployment.keep if verdict.decision == "keep" else self._deployment.rollback
        try:
            act(BY, verdict.reason, new.name)
        except InputError as error:  # somebody was quicker, or there is nothing to go back to
            log.warning("guard could not act", version=new.name, decision=verdict.decision, reason=str(error))
            return new.name, verdict
        log.info("judged", version=new.name, decision=verdict.decision, reason=verdict.reason)
        return new.name, verdict
