"""The guard at work: keeps the version on probation or rolls it back.

It holds no state that must survive: cohorts come from the lake, the probation from the history.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from mechanism.errors import InputError
from serving.canary.guard import GuardDecision, GuardSettings, judge
from serving.canary.lake_cohorts import LakeCohorts
from serving.canary.promotion_and_rollback import FULL, Deployment

log = structlog.get_logger(__name__)

ACTOR = "guard"
"""Who changed the deployment, in its history."""


class CanaryMonitor:
    """Decides about the version on probation, if there is one."""

    def __init__(self, deployment: Deployment, cohorts: LakeCohorts, settings: GuardSettings) -> None:
        self._deployment = deployment
        self._cohorts = cohorts
        self._settings = settings

    def check(self, now: datetime | None = None) -> tuple[str, GuardDecision] | None:
        """Decide about the version on probation and act on it; `now` is the time up to which the cohorts are complete.

        Returns the version's name and the decision, None if no version is on probation.
        """
        change = self._deployment.probation()
        if change is None:
            return None
        routed = self._deployment.versions()
        new = next(version for version in routed if version.name == change.version)
        old = next((version for version in routed if version.name != change.version), None)
        at = now or self._cohorts.until
        if at is None:
            return new.name, GuardDecision("wait", "it is not known up to which time the lake is complete")
        concurrent = change.share < FULL
        decision = judge(
            self._cohorts.of(new.digest, change.at),
            {} if old is None else self._cohorts.of(old.digest, change.at if concurrent else None),
            at.timestamp(),
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
