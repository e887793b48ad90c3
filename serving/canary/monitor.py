"""The guard at work: reads the event log, and keeps the version on probation or rolls it back.

It holds no state that must survive: cohorts come back from the log, the probation from the history.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import structlog

from mechanism.errors import InputError
from serving.canary.guard import GuardDecision, GuardSettings, judge
from serving.canary.log_cohorts import LogCohorts
from serving.canary.promotion_and_rollback import FULL, Deployment
from streaming.codec import EventError, decode
from streaming.log import Consumer, EventLog
from streaming.topics import CLICKS, INTERACTIONS

log = structlog.get_logger(__name__)

DISCOVER_S = 5.0
"""How often new partitions are looked for."""
REREAD = 10_000
"""Records of each partition that are read again at the start."""
ACTOR = "guard"
"""Who changed the deployment, in its history."""


class LogFeed:
    """Reads interactions and clicks from the event log into cohorts, from the last 10,000 records of each partition.

    Opening and polling raise LogUnavailable while the log cannot be reached.
    """

    def __init__(self, events: EventLog, cohorts: LogCohorts) -> None:
        self._cohorts = cohorts
        self._consumer: Consumer = events.consumer("", (INTERACTIONS, CLICKS))
        self._discover_at = time.monotonic() + DISCOVER_S
        for partition, end in self._consumer.ends().items():
            self._consumer.seek(partition, max(0, end - REREAD))

    def poll(self, timeout_s: float) -> int:
        """Add new records and return their number. Undecodable ones are skipped: the workers report them."""
        if time.monotonic() >= self._discover_at:
            self._consumer.discover()
            self._discover_at = time.monotonic() + DISCOVER_S
        records = self._consumer.poll(timeout_s)
        for record in records:
            if record.value is None:
                continue
            try:
                self._cohorts.add(decode(record.topic, record.value))
            except EventError:
                continue
        return len(records)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._consumer.close()


class CanaryMonitor:
    """Decides about the version on probation, if there is one."""

    def __init__(self, deployment: Deployment, cohorts: LogCohorts, settings: GuardSettings) -> None:
        self._deployment = deployment
        self._cohorts = cohorts
        self._settings = settings

    def check(self, now: datetime | None = None) -> tuple[str, GuardDecision] | None:
        """Decide about the version on probation and act on it.

        Returns the version's name and the decision, None if no version is on probation.
        """
        change = self._deployment.probation()
        if change is None:
            return None
        now = now or datetime.now(UTC)
        routed = self._deployment.versions()
        new = next(version for version in routed if version.name == change.version)
        old = next((version for version in routed if version.name != change.version), None)
        concurrent = change.share < FULL
        decision = judge(
            self._cohorts.of(new.digest, change.at),
            {} if old is None else self._cohorts.of(old.digest, change.at if concurrent else None),
            now.timestamp(),
            self._cohorts.click_window_s,
            self._settings,
            concurrent=concurrent,
        )
        if decision.action == "wait":
            return new.name, decision
        act = self._deployment.keep if decision.action == "keep" else self._deployment.rollback
        found = {"version": new.name, "action": decision.action}
        try:
            act(ACTOR, decision.reason, new.name)
        except InputError as error:  # another process was quicker, or there is no version to roll back to
            log.warning("canary.decision_not_applied", **found, reason=str(error))
            return new.name, decision
        log.info("canary.decided", **found, reason=decision.reason)
        return new.name, decision
