"""Reconciles a RetrainPolicy: a pure function of the observed state, the desired state and the time.

At an interval a Job, the look Job, checks in the log whether a retraining is due. When one is due, or when the schedule
requests one and there are enough new interactions, an IRPOJob is created from the template. A result that passes the
gates becomes the service's model if the policy promotes.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import ValidationError

from operators.conditions import PolicyCondition, PolicyReason
from operators.reconciliation import Apply, Create, Delete, Draft, Reconciliation
from operators.resources.base import API_VERSION
from operators.resources.retrainpolicy import Result, RetrainPolicyStatus, Seen
from operators.retrainpolicy.manifests import irpojob, look_job, look_name, promotion, run_name
from operators.retrainpolicy.observe import Desired, Observed, ObservedLook, ObservedRun

RESYNC_S = 60.0
"""Time until the next pass when nothing happens."""
BUSY_S = 15.0
IDLE_EVENTS = {PolicyReason.PAUSED, PolicyReason.COOLDOWN}
"""Reasons of an idle policy that get an event; looks recur too often for one."""
FIELD_RANGES = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31 and a day of its month",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 or SUN to SAT",
}
MACROS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}


def reconcile(observed: Observed, desired: Desired, now: datetime) -> Reconciliation[RetrainPolicyStatus]:
    """Decide the status and the actions for a RetrainPolicy."""
    if desired.deleting:
        return Reconciliation(desired.status)  # Kubernetes deletes the owned objects
    return _Pass(observed, desired, now.replace(microsecond=0)).run()


def next_moment(cron: str, time_zone: str, after: datetime) -> datetime:
    """Return the first scheduled time after `after`.

    Raises:
        ValueError: if the schedule is invalid or never occurs, or the time zone is unknown.
    """
    try:
        local = after.astimezone(ZoneInfo(time_zone))
        moment: datetime = next(CronSim(MACROS.get(cron, cron), local))
    except StopIteration as error:
        raise ValueError(f"{cron!r} never occurs: correct its day and month") from error
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        remedy = f"its {field} must be {FIELD_RANGES[field]}" if field in FIELD_RANGES else f"{error}: give five fields"
        raise ValueError(f"{cron!r} is not a schedule: {remedy}") from error
    except (LookupError, OSError, ValueError) as error:
        raise ValueError(f"{time_zone!r} is not a time zone: give one such as Europe/Paris or UTC") from error
    return moment.astimezone(after.tzinfo)


class _Pass:
    """One reconcile pass over one RetrainPolicy."""

    def __init__(self, observed: Observed, desired: Desired, now: datetime) -> None:
        self.observed, self.policy, self.now = observed, desired, now
        self.spec = desired.spec
        self.triggers = desired.spec.trigger_config()
        self.draft = Draft(desired, now, RESYNC_S)

    @property
    def status(self) -> RetrainPolicyStatus:
        return self.draft.status

    def run(self) -> Reconciliation[RetrainPolicyStatus]:
        self._record_result()
        self._delete_history()
        problem = self._apply_schedule()
        if not self._ready(problem):
            return self.draft.finish()
        if self.status.active is not None:
            self._train()
        elif self.spec.paused:
            self._wait(PolicyReason.PAUSED, "`paused` to be unset", "Paused")
        elif (until := self._cooldown_end()) is not None and self.now < until:
            self._wait(PolicyReason.COOLDOWN, f"the cooldown until {until:%Y-%m-%d %H:%M} UTC")
        else:
            self._look()
        return self.draft.finish()

    # -- the active retraining -------------------------------------------------------------------------------------

    def _active_run(self) -> ObservedRun | None:
        return next((run for run in self.observed.runs if run.name == self.status.active), None)

    def _record_result(self) -> None:
        """Record the result of a retraining that has ended, and promote its model if it passed."""
        run = self._active_run()
        if run is None or not run.ended:
            return
        if run.phase == "Failed":
            reason, outcome, message = PolicyReason.RUN_FAILED, "Failed", run.message or "see the IRPOJob"
        elif not run.best_epoch or run.model is None:
            reason, outcome = PolicyReason.REFUSED, "Refused"
            message = f"its learned reward on validation contexts is no better than that of {self.status.active_base}"
        elif run.refused_by:
            reason, outcome, message = PolicyReason.REFUSED, "Refused", f"{run.model}: {run.refused_by}"
        else:
            reason, outcome, message = PolicyReason.PASSED, "Passed", f"{run.model} passed every gate"
        result = Result.model_validate(
            {
                "job": run.name,
                "trigger": self.status.active_trigger,
                "outcome": outcome,
                "message": message[:2048],
                "model": run.model,
                "digest": run.digest,
                "time": self.now,
            }
        )
        self.draft.update(active=None, active_trigger="", active_base="", last_result=result)
        self.draft.emit(reason, f"{run.name}: {message}", warn=outcome != "Passed")
        if outcome == "Passed" and self.spec.promote and run.model is not None and run.digest is not None:
            self.draft.actions.append(Apply(promotion(self.policy, run.model, run.digest), force=True))
            message = f"{run.model} is now the model of {self.spec.service.name}; its canary begins"
            self.draft.emit(PolicyReason.PROMOTED, message)

    def _delete_history(self) -> None:
        """Delete ended IRPOJobs beyond the history limits, and look Jobs that are over."""
        for phase, limit in (("Complete", self.spec.history.complete), ("Failed", self.spec.history.failed)):
            ended = sorted((run for run in self.observed.runs if run.phase == phase), key=lambda run: run.created)
            for run in ended[: max(0, len(ended) - limit)]:
                self.draft.actions.append(Delete(API_VERSION, "IRPOJob", run.name, run.uid))
        current = look_name(self.policy.name, self.status.looks)
        for look in self.observed.looks:
            if look.name != current or self.status.look_since is None:
                self._delete_look(look)

    def _train(self) -> None:
        """Create the IRPOJob until it is observed: an operator may have died between the status and the creation."""
        run, name = self._active_run(), self.status.active
        assert name is not None
        assert self.status.last_run is not None
        if run is None:
            manifest = irpojob(self.policy, name, self.status.active_base, self.status.last_run)
            self.draft.actions.append(Create(manifest))
            self.draft.requeue_after_s = BUSY_S
        phase = run.phase if run is not None else "Pending"
        self.draft.update(phase="Training", waiting_for=f"IRPOJob {name}, which is {phase}")
        self._set_condition(PolicyCondition.TRAINING, True, PolicyReason.TRAINING, self.status.waiting_for)

    # -- schedule and prerequisites --------------------------------------------------------------------------------

    def _apply_schedule(self) -> str:
        """Record a retraining that the schedule requests; return the problem of an invalid schedule, else ""."""
        schedule = self.spec.schedule
        if schedule is None:
            self.draft.update(next_scheduled=None)
            return ""
        last = self.status.last_scheduled or self.policy.created
        try:
            due = next_moment(schedule.cron, schedule.time_zone, last)
            if due <= self.now:
                # All scheduled times that passed while no operator ran count as one.
                self.draft.update(last_scheduled=self.now)
                if not self.spec.paused and self.status.active is None:
                    self.draft.update(asked="schedule")
                due = next_moment(schedule.cron, schedule.time_zone, self.now)
        except ValueError as error:
            return str(error)
        self.draft.update(next_scheduled=due)
        return ""

    def _ready(self, schedule_problem: str) -> bool:
        """Set the Ready condition; return whether the pass can continue.

        A running retraining continues in any case. A refused object is created again in each pass.
        """
        if schedule_problem:
            self._set_not_ready(PolicyReason.BAD_SCHEDULE, f"spec.schedule: {schedule_problem}")
        elif not self.observed.service:
            self._set_not_ready(PolicyReason.NO_SERVICE, f"AuctionService {self.spec.service.name} to be created")
        elif self.observed.stable is None:
            self._set_not_ready(PolicyReason.NO_STABLE_VERSION, f"a stable version of {self.spec.service.name}")
        elif self.observed.refused is not None:
            self._set_not_ready(PolicyReason.CHILD_REFUSED, self.observed.refused.message)
            return True
        else:
            message = "the log and the service are available"
            self._set_condition(PolicyCondition.READY, True, PolicyReason.WATCHING, message)
            return True
        return self.status.active is not None

    def _cooldown_end(self) -> datetime | None:
        last = self.status.last_run
        return None if last is None else last + timedelta(hours=self.triggers.cooldown_hours)

    # -- looks -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Start the look Job if it is due, or act on the one in progress."""
        name = look_name(self.policy.name, self.status.looks)
        current = next((look for look in self.observed.looks if look.name == name), None)
        if self.status.look_since is not None:
            self._continue_look(name, current)
            return
        looked = self.status.looked
        due = looked is None or self.now >= looked + timedelta(seconds=self.spec.look.every_seconds)
        if due or self.status.asked:
            self.draft.update(looks=self.status.looks + 1, look_since=self.now)
            self._create_look(look_name(self.policy.name, self.status.looks))
        elif self.status.seen is not None:
            self._wait(PolicyReason.NOT_DUE, self.status.seen.reason)

    def _continue_look(self, name: str, look: ObservedLook | None) -> None:
        if look is None:
            self._create_look(name)
        elif look.state == "active":
            self._wait_for_look(name)
        else:
            self.draft.update(look_since=None, looked=self.now)
            if look.state == "failed":
                self._set_not_ready(PolicyReason.LOOK_FAILED, f"a readable log: {look.output or 'see the Job'}")
            else:
                self._apply_look(look.output)
            self._delete_look(look)

    def _create_look(self, name: str) -> None:
        assert self.observed.stable is not None
        manifest = look_job(self.policy, name, self.observed.stable, self.status.last_run)
        self.draft.actions.append(Create(manifest))
        self._wait_for_look(name)

    def _wait_for_look(self, name: str) -> None:
        self.draft.requeue_after_s = BUSY_S
        self._wait(PolicyReason.LOOKING, f"Job {name}, which reads the log", "Looking")

    def _delete_look(self, look: ObservedLook) -> None:
        self.draft.actions.append(Delete("batch/v1", "Job", look.name, look.uid))

    def _apply_look(self, output: str) -> None:
        """Start a retraining if the look Job found it due, or if it was requested and enough data is new."""
        assert self.observed.stable is not None
        try:
            decision = json.loads(output)
            seen = Seen.model_validate({**decision, "time": self.now, "serving": self.observed.stable})
        except (ValueError, TypeError, ValidationError):
            self._set_not_ready(PolicyReason.LOOK_FAILED, f"a valid result of the look, not {output[:200]!r}")
            return
        self.draft.update(seen=seen)
        asked = self.status.asked
        enough = seen.new >= self.triggers.at_least
        if not (seen.due or (asked and enough)):
            self.draft.update(asked="")
            self._wait(PolicyReason.NOT_DUE, seen.reason)
            return
        number = self.status.runs + 1
        name = run_name(self.policy.name, number)
        self.draft.update(
            runs=number,
            active=name,
            active_trigger=seen.trigger or asked,
            active_base=self.observed.stable,
            last_run=self.now,
            asked="",
        )
        why = seen.reason if seen.due else f"requested by the {asked}, with {seen.new} new interactions"
        self.draft.emit(PolicyReason.TRAINING, f"{name} starts from {self.observed.stable}: {why}")
        self._train()

    # -- status ----------------------------------------------------------------------------------------------------

    def _wait(self, reason: PolicyReason, what: str, phase: str = "Waiting") -> None:
        self.draft.update(phase=phase, waiting_for=what[:2048])
        self._set_condition(PolicyCondition.TRAINING, False, reason, f"waiting for {what}")

    def _set_not_ready(self, reason: PolicyReason, what: str) -> None:
        phase = "Training" if self.status.active else "Paused" if self.spec.paused else "Waiting"
        self.draft.update(phase=phase, waiting_for=what[:2048])
        self._set_condition(PolicyCondition.READY, False, reason, what)

    def _set_condition(self, kind: PolicyCondition, holds: bool, reason: PolicyReason, message: str) -> None:
        """Set a condition, with an event if its reason has changed and is worth one."""
        before = self.draft.condition(kind)
        changed = before is None or before.reason != reason
        if changed and (kind is PolicyCondition.READY or reason in IDLE_EVENTS):
            self.draft.emit(reason, message, warn=kind is PolicyCondition.READY and not holds)
        self.draft.set_condition(kind, holds, reason, message)
