"""What to do next for a policy: a pure function of what is wanted, what is seen and the time.

Every so often a Job looks at the log and says whether a retraining is due. When it is, or when the schedule asks for
one and there is enough to learn from, an IRPOJob is made from the template. Its result passes the gates or does not,
and is offered to the service where the policy promotes.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import ValidationError

from operators.actions import Action, Apply, Create, Delete, Outcome, Say
from operators.conditions import PolicyCondition, PolicyReason
from operators.resources.base import API_VERSION
from operators.resources.retrainpolicy import Result, RetrainPolicyStatus, Seen
from operators.resources.status import with_condition
from operators.retrainpolicy.manifests import irpojob, look, look_name, promotion, run_name
from operators.retrainpolicy.observed import Desired, Observed, SeenRun

LOOK_AGAIN_S = 60.0
BUSY_S = 15.0
TOLD = {PolicyReason.PAUSED, PolicyReason.COOLDOWN}
"""Reasons for which nothing is begun that are worth an event; looks come and go all day."""
RANGES = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31 and a day of its month",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 or SUN to SAT",
}
MACROS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *"}


def reconcile(observed: Observed, desired: Desired, now: datetime) -> Outcome[RetrainPolicyStatus]:
    """What to do for a policy now, and the status to show."""
    if desired.deleting:
        return Outcome(desired.status)  # Kubernetes removes the children by their owner
    return _Round(observed, desired, now.replace(microsecond=0)).decide()


def next_moment(cron: str, time_zone: str, after: datetime) -> datetime:
    """The schedule's first moment after another. Raises ValueError for a schedule or time zone that is none."""
    try:
        local = after.astimezone(ZoneInfo(time_zone))
        found: datetime = next(CronSim(MACROS.get(cron, cron), local))
    except StopIteration as error:
        raise ValueError(f"{cron!r} never comes: mend its day and month") from error
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        remedy = f"its {field} must be {RANGES[field]}" if field in RANGES else f"{error}: give five fields"
        raise ValueError(f"{cron!r} is no schedule: {remedy}") from error
    except (LookupError, OSError, ValueError) as error:
        raise ValueError(f"{time_zone!r} is no time zone: give one such as Europe/Paris or UTC") from error
    return found.astimezone(after.tzinfo)


class _Round:
    """One look at one policy. Collects the changes of its status, the actions and the events."""

    def __init__(self, observed: Observed, desired: Desired, now: datetime) -> None:
        self.seen, self.policy, self.now = observed, desired, now
        self.spec = desired.spec
        self.triggers = desired.spec.trigger_config()
        self.status = desired.status.model_copy(update={"observed_generation": desired.generation})
        self.actions: list[Action] = []
        self.events: list[Say] = []
        self.again_s = LOOK_AGAIN_S

    def decide(self) -> Outcome[RetrainPolicyStatus]:
        self._judge()
        self._clear()
        problem = self._schedule()
        if self._unready(problem):
            return self._outcome()
        self._condition(PolicyCondition.READY, True, PolicyReason.WATCHING, "the log and the service are there")
        if self.status.active is not None:
            self._train()
        elif self.spec.paused:
            self._wait(PolicyReason.PAUSED, "`paused` to be lifted", "Paused")
        elif (until := self._cooldown()) is not None and self.now < until:
            self._wait(PolicyReason.COOLDOWN, f"the cooldown until {_told(until)}")
        else:
            self._look()
        return self._outcome()

    # -- what runs -------------------------------------------------------------------------------------------------

    def _run(self) -> SeenRun | None:
        return next((run for run in self.seen.runs if run.name == self.status.active), None)

    def _judge(self) -> None:
        """What became of a retraining that has ended."""
        run = self._run()
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
        self._set(active=None, active_trigger="", active_base="", last_result=result)
        self._say(reason, f"{run.name}: {message}", warn=outcome != "Passed")
        if outcome == "Passed" and self.spec.promote and run.model is not None and run.digest is not None:
            self.actions.append(Apply(promotion(self.policy, run.model, run.digest), force=True))
            self._say(
                PolicyReason.PROMOTED, f"{run.model} is the model of {self.spec.service.name} now, its canary begins"
            )

    def _clear(self) -> None:
        """Ended IRPOJobs past the history's limits, and looks that are over."""
        for phase, limit in (("Complete", self.spec.history.complete), ("Failed", self.spec.history.failed)):
            ended = sorted((run for run in self.seen.runs if run.phase == phase), key=lambda run: run.created)
            for run in ended[: max(0, len(ended) - limit)]:
                self.actions.append(Delete(API_VERSION, "IRPOJob", run.name, run.uid))
        current = look_name(self.policy.name, self.status.looks)
        for seen in self.seen.looks:
            if seen.name != current or self.status.look_since is None:
                self.actions.append(Delete("batch/v1", "Job", seen.name, seen.uid))

    def _train(self) -> None:
        """The IRPOJob is made again until it is seen: a status was written, and perhaps nothing after it."""
        run, name = self._run(), self.status.active
        assert name is not None
        assert self.status.last_run is not None
        if run is None:
            self.actions.append(Create(irpojob(self.policy, name, self.status.active_base, self.status.last_run)))
            self.again_s = BUSY_S
        phase = run.phase if run is not None else "Pending"
        self._set(phase="Training", waiting_for=f"IRPOJob {name}, which is {phase}")
        self._condition(PolicyCondition.TRAINING, True, PolicyReason.TRAINING, self.status.waiting_for)

    # -- when ------------------------------------------------------------------------------------------------------

    def _schedule(self) -> str:
        """Notes what the clock asks for; returns what is wrong with the schedule."""
        schedule = self.spec.schedule
        if schedule is None:
            self._set(next_scheduled=None)
            return ""
        last = self.status.last_scheduled or self.policy.created
        try:
            due = next_moment(schedule.cron, schedule.time_zone, last)
            if due <= self.now:
                # moments that passed while nobody looked are one
                self._set(last_scheduled=self.now)
                if not self.spec.paused and self.status.active is None:
                    self._set(asked="schedule")
                due = next_moment(schedule.cron, schedule.time_zone, self.now)
        except ValueError as error:
            return str(error)
        self._set(next_scheduled=due)
        return ""

    def _unready(self, problem: str) -> bool:
        if problem:
            self._not_ready(PolicyReason.BAD_SCHEDULE, f"spec.schedule: {problem}")
        elif self.seen.refused is not None:
            self._not_ready(PolicyReason.CHILD_REFUSED, self.seen.refused.message)
            return False
        elif not self.seen.service:
            self._not_ready(PolicyReason.NO_SERVICE, f"AuctionService {self.spec.service.name} to be made")
        elif self.seen.stable is None:
            self._not_ready(PolicyReason.NO_STABLE_VERSION, f"a stable version of {self.spec.service.name}")
        else:
            return False
        return self.status.active is None

    def _cooldown(self) -> datetime | None:
        last = self.status.last_run
        return None if last is None else last + timedelta(hours=self.triggers.cooldown_hours)

    def _look(self) -> None:
        """A look that is under way, over or due; and what follows from it."""
        assert self.seen.stable is not None
        name = look_name(self.policy.name, self.status.looks)
        current = next((one for one in self.seen.looks if one.name == name), None)
        if self.status.look_since is not None:
            if current is None:
                self.actions.append(Create(look(self.policy, name, self.seen.stable, self.status.last_run)))
            elif current.state == "failed":
                self._set(look_since=None, looked=self.now)
                self.actions.append(Delete("batch/v1", "Job", current.name, current.uid))
                self._not_ready(PolicyReason.LOOK_FAILED, f"the log to be readable: {current.words or 'see the Job'}")
                return
            elif current.state == "succeeded":
                self._heed(current.words)
                self.actions.append(Delete("batch/v1", "Job", current.name, current.uid))
                return
            self.again_s = BUSY_S
            self._wait(PolicyReason.LOOKING, f"Job {name}, which looks at the log", "Looking")
            return
        looked = self.status.looked
        due = looked is None or self.now >= looked + timedelta(seconds=self.spec.look.every_seconds)
        if due or self.status.asked:
            self._set(looks=self.status.looks + 1, look_since=self.now)
            name = look_name(self.policy.name, self.status.looks)
            self.actions.append(Create(look(self.policy, name, self.seen.stable, self.status.last_run)))
            self.again_s = BUSY_S
            self._wait(PolicyReason.LOOKING, f"Job {name}, which looks at the log", "Looking")
        elif self.status.seen is not None:
            self._wait(PolicyReason.NOT_DUE, self.status.seen.reason)

    def _heed(self, words: str) -> None:
        """What a look has found."""
        assert self.seen.stable is not None
        self._set(look_since=None, looked=self.now)
        try:
            told = json.loads(words)
            seen = Seen.model_validate({**told, "time": self.now, "serving": self.seen.stable})
        except (ValueError, TypeError, ValidationError):
            self._not_ready(PolicyReason.LOOK_FAILED, f"a look that can be read, not {words[:200]!r}")
            return
        self._set(seen=seen)
        asked = self.status.asked
        enough = seen.new >= self.triggers.at_least
        if seen.due or (asked and enough):
            trigger = seen.trigger or asked
            number = self.status.runs + 1
            name = run_name(self.policy.name, number)
            self._set(
                runs=number,
                active=name,
                active_trigger=trigger,
                active_base=self.seen.stable,
                last_run=self.now,
                asked="",
            )
            why = seen.reason if seen.due else f"asked for by the {asked}, with {seen.new} new interactions"
            self._say(PolicyReason.TRAINING, f"{name} begins from {self.seen.stable}: {why}")
            self._train()
            return
        self._set(asked="")
        self._wait(PolicyReason.NOT_DUE, seen.reason)

    # -- telling ---------------------------------------------------------------------------------------------------

    def _wait(self, reason: PolicyReason, what: str, phase: str = "Waiting") -> None:
        self._set(phase=phase, waiting_for=what[:2048])
        self._condition(PolicyCondition.TRAINING, False, reason, f"waiting for {what}")

    def _not_ready(self, reason: PolicyReason, what: str) -> None:
        phase = "Training" if self.status.active else "Paused" if self.spec.paused else "Waiting"
        self._set(phase=phase, waiting_for=what[:2048])
        self._condition(PolicyCondition.READY, False, reason, what)

    def _condition(self, kind: PolicyCondition, holds: bool, reason: PolicyReason, message: str) -> None:
        before = next((one.reason for one in self.status.conditions if one.type == kind), None)
        if before != reason and (kind is PolicyCondition.READY or reason in TOLD):
            self._say(reason, message, warn=kind is PolicyCondition.READY and not holds)
        self._set(
            conditions=with_condition(
                self.status.conditions, kind, holds, reason, message, self.now, self.policy.generation
            )
        )

    def _set(self, **changes: object) -> None:
        self.status = self.status.model_copy(update=changes)

    def _say(self, reason: PolicyReason, message: str, warn: bool = False) -> None:
        self.events.append(Say(reason, message, "Warning" if warn else "Normal"))

    def _outcome(self) -> Outcome[RetrainPolicyStatus]:
        return Outcome(self.status, tuple(self.actions), tuple(self.events), self.again_s)


def _told(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
