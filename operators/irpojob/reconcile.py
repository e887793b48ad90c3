"""What to do next for a job: a pure function of what is wanted, what is seen and the time.

A change of mind (a step done, a restart, a pause) is a change of the status and of nothing else; the next round then
finds Jobs that no longer fit it and removes them. So an operator that dies at any moment goes on where it was.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from mechanism.errors import ConfigError
from operators.actions import Action, Apply, Create, Delete, Outcome, Say
from operators.conditions import JobCondition, JobReason
from operators.irpojob.failures import HOPELESS, STUCK_S, Cause, cause_of, held_up, stuck
from operators.irpojob.manifests import config_map, service, step_job
from operators.irpojob.observed import Desired, Observed, SeenJob, SeenPod
from operators.irpojob.plan import Place, Step, job_name, places, pods_of
from operators.resources.base import API_VERSION
from operators.resources.irpojob import Failure, IRPOJobStatus
from operators.resources.status import with_condition

LONGEST_BACKOFF_S = 600
LOOK_AGAIN_S = 300.0
"""How often a job is looked at when nothing happens: an event may have been missed."""
STARTING_S = 15.0
ENDED_S = 3600.0


def reconcile(observed: Observed, desired: Desired, now: datetime) -> Outcome[IRPOJobStatus]:
    """What to do for a job now, and the status to show."""
    if desired.deleting:
        return Outcome(desired.status)  # Kubernetes removes the children by their owner
    return _Round(observed, desired, now.replace(microsecond=0)).decide()


class _Round:
    """One look at one job. Collects the changes of its status, the actions and the events."""

    def __init__(self, observed: Observed, desired: Desired, now: datetime) -> None:
        self.seen, self.job, self.now = observed, desired, now
        self.spec = desired.spec
        self.status = desired.status.model_copy(update={"observed_generation": desired.generation})
        self.actions: list[Action] = []
        self.events: list[Say] = []
        self.again_s = LOOK_AGAIN_S

    def decide(self) -> Outcome[IRPOJobStatus]:
        if not self._accepted() or self._over():
            return self._ended()
        while (current := self._current()) is not None and current.state == "succeeded":
            self._step_done(current)
            if self._over():
                return self._ended()
        if self.spec.suspend:
            self._suspend()
            return self._outcome()
        self._resume()
        if self._past_deadline():
            return self._ended()
        if current is not None and (cause := self._trouble(current)) is not None:
            self._heal_or_fail(cause)
            if self._over():
                return self._ended()
            current = None
        if current is not None:
            self._remove_strays()
            self._watch(current)
        else:
            self._start_when_clear()
        return self._outcome()

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        return self.plan[min(self.status.steps_done, len(self.plan) - 1)]

    def _over(self) -> bool:
        return self.status.completion_time is not None

    def _accepted(self) -> bool:
        """Checks the configuration by the trainer's own schema; the API server's rules are not all of it."""
        try:
            config = self.spec.run_config(self.job.name)
        except ConfigError as error:
            self._condition(JobCondition.ACCEPTED, False, JobReason.INVALID_SPEC, str(error))
            self.plan = places(1)
            if not self._over():
                self._fail(JobReason.INVALID_SPEC, str(error))
            return False
        self.plan = places(config.epochs)
        self._condition(JobCondition.ACCEPTED, True, JobReason.VALID, "the configuration has been checked")
        return True

    def _current(self) -> SeenJob | None:
        """The Job of the present attempt at the present step, unless it is on its way out."""
        wanted = (self.place, self.status.attempt)
        return next((one for one in self.seen.jobs if (one.place, one.attempt) == wanted and not one.deleting), None)

    def _pods_of(self, job: SeenJob) -> list[SeenPod]:
        """Its own, not those of an earlier job of the same name that are still on their way out."""
        return [pod for pod in self.seen.pods if pod.owner == job.uid]

    def _given_up(self, pod: SeenPod) -> bool:
        """Whether a pod's node is gone, or has been silent for so long that the pod no longer counts; or the pod should
        have ended so long ago that its node cannot be trusted with it."""
        if pod.gone_by is not None and (self.now - pod.gone_by).total_seconds() >= self.spec.node_loss_seconds:
            return True
        if pod.node is None:
            return False
        if pod.node in self.seen.gone:
            return True
        since = self.seen.nodes.get(pod.node)
        return since is not None and (self.now - since).total_seconds() >= self.spec.node_loss_seconds

    # -- how a step goes -------------------------------------------------------------------------------------------

    def _step_done(self, job: SeenJob) -> None:
        pods = [pod for pod in self._pods_of(job) if pod.index == 0 and pod.words]
        told = _told(pods[0].words) if pods else {}
        found = str(told.get("found") or "")
        message = f"{self.place} is done{': ' if found else ''}{found}"
        self.events.append(Say(JobReason.STEP_COMPLETE, message))
        done = self.status.steps_done + 1
        last = self.place.step is Step.REGISTRATION
        self._set(steps_done=done, out_of_memory=0, not_before=None)
        if not last:
            return
        best, version = told.get("best_epoch"), told.get("model_version")
        refused_by = str(told.get("refused_by") or "")
        self._set(
            best_epoch=best,
            model_version=version,
            model_digest=told.get("model_digest"),
            model_status=told.get("model_status"),
            refused_by=refused_by,
        )
        result = f"epoch {best} is the best and is registered as {version}" if version else "no epoch beats the base"
        if refused_by:
            result += f", refused by its gates: {refused_by}"
        message = f"all {len(self.plan)} steps are done: {result if told else 'see the model registry'}"
        self._end("Complete")
        self._condition(JobCondition.COMPLETE, True, JobReason.COMPLETE, message)
        self._condition(JobCondition.PROGRESSING, False, JobReason.COMPLETE, message)
        self.events.append(Say(JobReason.COMPLETE, message))

    def _trouble(self, current: SeenJob) -> Cause | None:
        """Why the present attempt cannot go on, if it cannot."""
        pods = self._pods_of(current)
        if current.state == "failed":
            return cause_of(current, pods)
        lost = next((pod for pod in pods if pod.live and self._given_up(pod)), None)
        if lost is not None:
            node = f"node {lost.node} of pod {lost.name}"
            gone = lost.node in self.seen.gone
            return Cause(JobReason.NODE_LOST, f"{node} {'is gone' if gone else 'does not answer'}", lost)
        for pod in pods:
            if pod.live and pod.placed is not None and (self.now - pod.placed).total_seconds() >= STUCK_S:
                return Cause(JobReason.NODE_LOST, f"node {pod.node} has not taken up pod {pod.name}", pod)
        return stuck(pods, self.now)

    def _heal_or_fail(self, cause: Cause) -> None:
        """Starts the whole step again, or ends the job where that is no use or has been tried often enough."""
        status, place = self.status, self.place
        self._set(
            last_failure=Failure(
                reason=cause.reason,
                message=cause.message,
                epoch=place.epoch,
                step=place.step,
                pod=cause.pod.name if cause.pod else None,
                node=cause.pod.node if cause.pod else None,
                exit_code=cause.pod.exit_code if cause.pod else None,
                time=self.now,
            )
        )
        told = f"{place}: {cause.message}"
        if cause.reason is JobReason.OUT_OF_MEMORY:
            self._set(out_of_memory=status.out_of_memory + 1)
            if self.status.out_of_memory >= 2:
                self._fail(cause.reason, f"{told}; twice at the same size, so a third start would end alike")
                return
        if cause.reason in HOPELESS or cause.reason in (JobReason.IMAGE_UNAVAILABLE, JobReason.POD_UNSTARTABLE):
            self._fail(cause.reason, told)
            return
        if status.restarts >= self.spec.max_restarts:
            used = f"after {status.restarts} of {self.spec.max_restarts} restarts"
            self._fail(JobReason.RESTARTS_EXHAUSTED, f"{used}, {cause.reason}: {told}")
            return
        wait = min(LONGEST_BACKOFF_S, self.spec.backoff_seconds * 2**status.restarts)
        message = f"{told}; restart {status.restarts + 1} of {self.spec.max_restarts} in {wait} s"
        self.events.append(Say(cause.reason, message, "Warning"))
        self._set(
            restarts=status.restarts + 1,
            attempt=status.attempt + 1,
            phase="Restarting",
            not_before=self.now + timedelta(seconds=wait),
        )
        self._condition(JobCondition.PROGRESSING, True, JobReason.RESTARTING, message)

    def _start_when_clear(self) -> None:
        """Makes the step's Job as soon as its back-off is over and nothing is left of what ran before."""
        if self.seen.refused is not None and self.seen.refused.for_good:
            self._fail(JobReason.CHILD_REFUSED, self.seen.refused.message)
            self._remove_strays()
            return
        waiting = self._remove_strays()
        if self.status.not_before is not None and self.now < self.status.not_before:
            self._soon((self.status.not_before - self.now).total_seconds())
            return
        if waiting:
            self._soon(2.0)
            return
        if self.status.start_time is None:
            self._set(start_time=self.now, active_since=self.now)
        for old in self.seen.jobs:  # of attempts before, kept until now for their logs
            if old.state == "failed" and not old.deleting:
                self._delete_job(old)
        self.actions += [
            Apply(config_map(self.job)),
            Apply(service(self.job)),
            Create(step_job(self.job, self.place, self.status.attempt)),
        ]
        if self.seen.refused is not None:
            self._condition(JobCondition.PROGRESSING, False, JobReason.CHILD_REFUSED, self.seen.refused.message)
            return
        self._set(phase="Pending", not_before=None)
        name = job_name(self.job.name, self.place, self.status.attempt)
        self._progressing(JobReason.STARTING, f"asks for Job {name}")
        self._soon(STARTING_S)

    def _watch(self, current: SeenJob) -> None:
        """Says how far the present attempt is."""
        count, _ = pods_of(self.spec, self.place.step)
        pods = self._pods_of(current)
        unplaced = next((pod for pod in pods if pod.live and pod.unschedulable), None)
        doubtful = [pod for pod in pods if pod.live and pod.node and self.seen.nodes.get(pod.node) is not None]
        if current.suspended:
            self._set(phase="Queued")
            self._progressing(JobReason.QUEUED, f"waits for queue {self.spec.queue_name}")
        elif unplaced is not None:
            self._set(phase="Pending")
            self._progressing(JobReason.UNSCHEDULABLE, f"pod {unplaced.name}: {unplaced.unschedulable}", warn=True)
        elif (held := held_up(pods)) is not None:
            self._set(phase="Pending" if current.ready == 0 else "Running")
            until = (held.pod.created if held.pod else self.now) + timedelta(seconds=STUCK_S)
            self._progressing(held.reason, f"{held.message}; given up at {until:%H:%M:%S} UTC", warn=True)
            self._soon(STARTING_S)
        elif current.ready >= count:
            self._set(phase="Running")
            self._progressing(JobReason.RUNNING, f"{count} of {count} pods run")
        else:
            self._set(phase="Pending" if current.ready == 0 else "Running")
            self._progressing(JobReason.STARTING, f"{current.ready} of {count} pods run")
            self._soon(STARTING_S)
        if doubtful:
            self._soon(max(1.0, self.spec.node_loss_seconds / 4))

    # -- pausing, and the end --------------------------------------------------------------------------------------

    def _suspend(self) -> None:
        if self.status.phase not in ("Suspending", "Suspended"):
            self._set(
                phase="Suspending",
                attempt=self.status.attempt + 1,
                active_seconds=self._active_s(),
                active_since=None,
                not_before=None,
            )
            self.events.append(Say(JobReason.SUSPENDING, f"{self.place}: its pods end"))
        if self._remove_strays():
            self._condition(JobCondition.SUSPENDED, False, JobReason.SUSPENDING, "pods are ending")
            self._soon(5.0)
        elif self.status.phase == "Suspending":
            self._set(phase="Suspended")
            self.events.append(Say(JobReason.SUSPENDED, "no pod is left"))
        if self.status.phase == "Suspended":
            message = "no pod is left; set spec.suspend to false to go on"
            self._condition(JobCondition.SUSPENDED, True, JobReason.SUSPENDED, message)
        self._condition(JobCondition.PROGRESSING, False, JobReason.SUSPENDED, "spec.suspend is set")

    def _resume(self) -> None:
        if self.status.phase not in ("Suspending", "Suspended"):
            return
        self._set(phase="Pending", active_since=self.now if self.status.start_time else None)
        self._condition(JobCondition.SUSPENDED, False, JobReason.RESUMED, f"goes on with {self.place}")
        self.events.append(Say(JobReason.RESUMED, f"goes on with {self.place}"))

    def _active_s(self) -> int:
        since = self.status.active_since
        return self.status.active_seconds + (int((self.now - since).total_seconds()) if since else 0)

    def _past_deadline(self) -> bool:
        allowed = self.spec.active_deadline_seconds
        if allowed is None:
            return False
        left = allowed - self._active_s()
        if left > 0:
            self._soon(left)
            return False
        last = next((one for one in self.status.conditions if one.type == JobCondition.PROGRESSING), None)
        doing = f"; at last {last.reason}: {last.message}" if last is not None else ""
        message = f"{self.place} was not done after {allowed} s (activeDeadlineSeconds){doing}"
        self._fail(JobReason.DEADLINE_EXCEEDED, message)
        return True

    def _fail(self, reason: JobReason, message: str) -> None:
        self._end("Failed")
        self._condition(JobCondition.FAILED, True, reason, message)
        self._condition(JobCondition.PROGRESSING, False, reason, message)
        self.events.append(Say(reason, message, "Warning"))

    def _end(self, phase: str) -> None:
        self._set(
            phase=phase, completion_time=self.now, active_seconds=self._active_s(), active_since=None, not_before=None
        )

    def _ended(self) -> Outcome[IRPOJobStatus]:
        """After the end nothing runs any more, and the job goes when its time is up. Ended Jobs stay for their logs."""
        self.again_s = 5.0 if self._remove_strays() else ENDED_S
        ttl, end = self.spec.ttl_seconds_after_finished, self.status.completion_time
        if ttl is not None and end is not None:
            left = ttl - (self.now - end).total_seconds()
            if left <= 0:
                self.actions.append(Delete(API_VERSION, "IRPOJob", self.job.name, self.job.uid))
            else:
                self._soon(left)
        return self._outcome()

    # -- tools -----------------------------------------------------------------------------------------------------

    def _remove_strays(self) -> bool:
        """Removes Jobs that do not fit the status; whether any of them, or a live pod of theirs, is still there."""
        keep = None if self._over() or self.spec.suspend else self._current()
        left = False
        for job in self.seen.jobs:
            if job.state == "active" and (keep is None or job.uid != keep.uid):
                left = True
                if not job.deleting:
                    self._delete_job(job)
        for pod in self.seen.pods:
            if not pod.live or (keep is not None and pod.owner == keep.uid):
                continue
            if self._given_up(pod):
                # its node cannot confirm the end; the run's lock and names keep a pod that still runs from harm
                self.actions.append(Delete("v1", "Pod", pod.name, pod.uid, now=True))
            else:
                left = True
        return left

    def _delete_job(self, job: SeenJob) -> None:
        self.actions.append(Delete("batch/v1", "Job", job.name, job.uid))

    def _set(self, **changes: Any) -> None:
        self.status = self.status.model_copy(update=changes)

    def _soon(self, seconds: float) -> None:
        self.again_s = min(self.again_s, max(0.5, seconds))

    def _progressing(self, reason: JobReason, message: str, *, warn: bool = False) -> None:
        before = next((one for one in self.status.conditions if one.type == JobCondition.PROGRESSING), None)
        text = f"{self.place}: {message}"
        made = reason is JobReason.STARTING and message.startswith("asks ")
        if before is None or (before.message != text if made else before.reason != reason):
            self.events.append(Say(reason, text, "Warning" if warn else "Normal"))
        self._condition(JobCondition.PROGRESSING, True, reason, text)

    def _condition(self, type_: JobCondition, holds: bool, reason: JobReason, message: str) -> None:
        conditions = with_condition(
            self.status.conditions, type_, holds, reason, message, self.now, self.job.generation
        )
        self._set(conditions=conditions)

    def _outcome(self) -> Outcome[IRPOJobStatus]:
        place = self.place
        done = self.status.steps_done
        self._set(epoch=place.epoch, step=str(place.step), progress=f"{done}/{len(self.plan)}")
        return Outcome(self.status, tuple(self.actions), tuple(self.events), self.again_s)


def _told(words: str) -> dict[str, Any]:
    """What a pod that ended well wrote for the operator; nothing where it wrote something else."""
    try:
        told = json.loads(words)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
