"""Reconciles an IRPOJob: a pure function of the observed state, the desired state and the time.

Every decision (a finished step, a restart, a suspension) changes the status alone; the next pass finds the Jobs that no
longer match it and deletes them. So an operator that is killed at any moment continues where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from mechanism.errors import ConfigError
from operators.conditions import JobCondition, JobReason
from operators.irpojob.failures import FATAL, STUCK_S, Cause, failure_of, is_lost, start_problem
from operators.irpojob.gang import GANG_PAUSE_S, QUEUE_S, partial_gang, without_kueue
from operators.irpojob.manifests import config_map, service, step_job
from operators.irpojob.observe import Desired, Observed, ObservedJob, ObservedPod
from operators.irpojob.plan import Place, Step, job_name, places, pods_of
from operators.reconciliation import Apply, Create, Delete, Draft, Reconciliation
from operators.resources.base import API_VERSION, Manifest
from operators.resources.irpojob import Failure, IRPOJobStatus

LONGEST_BACKOFF_S = 600
PROGRESS_S = 600.0
"""A step that ran for so long before it failed has made progress, as for a kubelet's own back-off."""
RESYNC_S = 300.0
"""Time until the next pass when nothing happens: a watch event may have been missed."""
STARTING_S = 15.0
ENDED_S = 3600.0


def reconcile(observed: Observed, desired: Desired, now: datetime) -> Reconciliation[IRPOJobStatus]:
    """Decide the status and the actions for an IRPOJob."""
    if desired.deleting:
        return Reconciliation(desired.status)  # Kubernetes deletes the owned objects
    return _Pass(observed, desired, now.replace(microsecond=0)).run()


class _Pass:
    """One reconcile pass over one IRPOJob."""

    def __init__(self, observed: Observed, desired: Desired, now: datetime) -> None:
        self.observed, self.job, self.now = observed, desired, now
        self.spec = desired.spec
        self.draft = Draft(desired, now, RESYNC_S)

    def run(self) -> Reconciliation[IRPOJobStatus]:
        if not self._accept_configuration() or self._over():
            return self._finish_ended()
        while (current := self._current_job()) is not None and current.state == "succeeded":
            self._complete_step(current)
            if self._over():
                return self._finish_ended()
        if self.spec.suspend:
            self._suspend()
            return self._finish()
        self._resume()
        if self._fail_past_deadline():
            return self._finish_ended()
        if (
            current is not None
            and (cause := failure_of(current, self.observed, self.spec.node_loss_seconds, self.now)) is not None
        ):
            self._restart_or_fail(cause, self.observed.pods_of(current))
            if self._over():
                return self._finish_ended()
            current = None
        if current is not None and self._gang_fails(current):
            current = None
        if current is not None:
            self._delete_obsolete()
            self._report_progress(current)
        else:
            self._start_step()
        return self._finish()

    # -- the current step ------------------------------------------------------------------------------------------

    @property
    def status(self) -> IRPOJobStatus:
        return self.draft.status

    @property
    def place(self) -> Place:
        return self.plan[min(self.status.steps_done, len(self.plan) - 1)]

    def _over(self) -> bool:
        return self.status.completion_time is not None

    def _accept_configuration(self) -> bool:
        """Check the configuration by the trainer's own schema; the API server's rules cover only a part of it."""
        try:
            config = self.spec.run_config(self.job.name)
        except ConfigError as error:
            self.draft.set_condition(JobCondition.ACCEPTED, False, JobReason.INVALID_SPEC, str(error))
            self.plan = places(1, self.spec.steps)
            if not self._over():
                self._fail(JobReason.INVALID_SPEC, str(error))
            return False
        self.plan = places(config.epochs, self.spec.steps)
        self.draft.set_condition(JobCondition.ACCEPTED, True, JobReason.VALID, "the configuration has been checked")
        return True

    def _current_job(self) -> ObservedJob | None:
        """Return the Job of the current attempt at the current step, unless it is being deleted."""
        wanted = (self.place, self.status.attempt)
        return next(
            (one for one in self.observed.jobs if (one.place, one.attempt) == wanted and not one.deleting), None
        )

    def _is_lost(self, pod: ObservedPod) -> bool:
        return is_lost(pod, self.observed, self.spec.node_loss_seconds, self.now)

    # -- results and failures of a step ----------------------------------------------------------------------------

    def _complete_step(self, job: ObservedJob) -> None:
        pods = sorted(self.observed.pods_of(job), key=lambda pod: pod.index)
        outcomes = [pod.outcome for pod in pods if pod.output]
        # Of shards, the one that merged them has found something: the last to finish, whatever its index.
        outcome = next((one for one in outcomes if one.get("found")), outcomes[0] if outcomes else {})
        found = str(outcome.get("found") or "")
        self.draft.emit(JobReason.STEP_COMPLETE, f"{self.place} is done{': ' if found else ''}{found}")
        last = self.place.step is Step.REGISTRATION
        self.draft.update(
            steps_done=self.status.steps_done + 1, out_of_memory=0, restarts_without_progress=0, not_before=None
        )
        if last:
            self._complete_run(outcome)

    def _complete_run(self, outcome: Manifest) -> None:
        best, version = outcome.get("best_epoch"), outcome.get("model_version")
        refused_by = str(outcome.get("refused_by") or "")
        self.draft.update(
            best_epoch=best,
            model_version=version,
            model_digest=outcome.get("model_digest"),
            model_status=outcome.get("model_status"),
            refused_by=refused_by,
        )
        result = f"epoch {best} is the best and is registered as {version}" if version else "no epoch beats the base"
        if refused_by:
            result += f", refused by its gates: {refused_by}"
        message = f"all {len(self.plan)} steps are done: {result if outcome else 'see the model registry'}"
        self._end("Complete")
        self.draft.set_condition(JobCondition.COMPLETE, True, JobReason.COMPLETE, message)
        self.draft.set_condition(JobCondition.PROGRESSING, False, JobReason.COMPLETE, message)
        self.draft.emit(JobReason.COMPLETE, message)

    def _restart_or_fail(self, cause: Cause, pods: Sequence[ObservedPod]) -> None:
        """Restart the whole step, or fail the job if a restart cannot help or the restarts are used up."""
        status, place = self.status, self.place
        self.draft.update(
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
        failure = f"{place}: {cause.message}"
        if cause.reason is JobReason.OUT_OF_MEMORY:
            self.draft.update(out_of_memory=status.out_of_memory + 1)
            if self.status.out_of_memory >= 2:
                self._fail(cause.reason, f"{failure}; twice at the same size, so a third attempt would fail as well")
                return
        if cause.reason in FATAL:
            self._fail(cause.reason, failure)
            return
        if status.restarts >= self.spec.max_restarts:
            used = f"after {status.restarts} of {self.spec.max_restarts} restarts"
            self._fail(JobReason.RESTARTS_EXHAUSTED, f"{used}, {cause.reason}: {failure}")
            return
        begun = min((pod.created for pod in pods), default=self.now)
        progress = (self.now - begun).total_seconds() >= PROGRESS_S
        in_vain = 0 if progress else status.restarts_without_progress
        wait = min(LONGEST_BACKOFF_S, self.spec.backoff_seconds * 2**in_vain)
        message = f"{failure}; restart {status.restarts + 1} of {self.spec.max_restarts} in {wait} s"
        self.draft.emit(cause.reason, message, warn=True)
        self.draft.update(
            restarts=status.restarts + 1,
            restarts_without_progress=in_vain + 1,
            attempt=status.attempt + 1,
            phase="Restarting",
            not_before=self.now + timedelta(seconds=wait),
        )
        self.draft.set_condition(JobCondition.PROGRESSING, True, JobReason.RESTARTING, message)

    def _gang_fails(self, job: ObservedJob) -> bool:
        """Give the nodes of a step back that has held them for `gangSeconds` without room for all of its pods.

        Two jobs that each hold a part of what the other needs would wait for ever. They got their nodes at different
        times, so one of them gives up first, and the other gets its nodes.
        """
        count, _ = pods_of(self.spec, self.place.step)
        gang = partial_gang(self.observed.pods_of(job), count)
        if gang is None or not self.spec.gang_seconds:
            return False
        left = self.spec.gang_seconds - (self.now - gang.since).total_seconds()
        if left > 0:
            self.draft.requeue_within(left)
            return False
        in_vain = self.status.restarts_without_progress
        wait = max(GANG_PAUSE_S, min(LONGEST_BACKOFF_S, self.spec.backoff_seconds * 2**in_vain))
        message = f"{self.place}: not all of its {count} pods found a node in {self.spec.gang_seconds} s"
        message += f"; pod {gang.waiting.name}: {gang.waiting.unschedulable}; the next attempt begins in {wait} s"
        self.draft.emit(JobReason.GANG_INCOMPLETE, message, warn=True)
        self.draft.update(
            attempt=self.status.attempt + 1,
            restarts_without_progress=in_vain + 1,
            phase="Restarting",
            not_before=self.now + timedelta(seconds=wait),
        )
        self.draft.set_condition(JobCondition.PROGRESSING, True, JobReason.GANG_INCOMPLETE, message)
        return True

    def _start_step(self) -> None:
        """Create the step's Job once its back-off is over and nothing of earlier attempts is left."""
        refused = self.observed.refused
        if refused is not None and refused.permanent:
            self._fail(JobReason.CHILD_REFUSED, refused.message)
            self._delete_obsolete()
            return
        remaining = self._delete_obsolete()
        if self.status.not_before is not None and self.now < self.status.not_before:
            self.draft.requeue_within((self.status.not_before - self.now).total_seconds())
            return
        if remaining:
            self.draft.requeue_within(2.0)
            return
        if not self.observed.queues:
            message = without_kueue(self.spec.queue_name)
            self.draft.update(phase="Pending")
            self._set_progress(JobReason.NO_QUEUE, message, holds=False, warn=True)
            self.draft.requeue_within(QUEUE_S)
            return
        if self.status.start_time is None:
            self.draft.update(start_time=self.now, active_since=self.now)
        for job in self.observed.jobs:  # failed Jobs of earlier attempts, kept until now for their logs
            if job.state == "failed" and not job.deleting:
                self._delete_job(job)
        self.draft.actions += [
            Apply(config_map(self.job)),
            Apply(service(self.job)),
            Create(step_job(self.job, self.place, self.status.attempt)),
        ]
        if refused is not None:
            self.draft.set_condition(JobCondition.PROGRESSING, False, JobReason.CHILD_REFUSED, refused.message)
            return
        self.draft.update(phase="Pending", not_before=None)
        message = f"creating Job {job_name(self.job.name, self.place, self.status.attempt)}"
        # Every step starts with this reason: a new Job is an event although the reason is the same as before.
        before = self.draft.condition(JobCondition.PROGRESSING)
        changed = before is None or before.message != f"{self.place}: {message}"
        self._set_progress(JobReason.STARTING, message, emit=changed)
        self.draft.requeue_within(STARTING_S)

    def _report_progress(self, current: ObservedJob) -> None:
        """Set phase and Progressing condition from the current Job's pods."""
        count, _ = pods_of(self.spec, self.place.step)
        pods = self.observed.pods_of(current)
        unscheduled = next((pod for pod in pods if pod.live and pod.unschedulable), None)
        phase = "Pending" if current.ready == 0 else "Running"
        if current.suspended:
            self.draft.update(phase="Queued")
            self._set_progress(JobReason.QUEUED, f"waits for queue {self.spec.queue_name}")
        elif unscheduled is not None:
            self.draft.update(phase="Pending")
            message = f"pod {unscheduled.name}: {unscheduled.unschedulable}"
            self._set_progress(JobReason.UNSCHEDULABLE, message, warn=True)
        elif (problem := start_problem(pods)) is not None:
            self.draft.update(phase=phase)
            until = (problem.pod.created if problem.pod else self.now) + timedelta(seconds=STUCK_S)
            message = f"{problem.message}; the job fails at {until:%H:%M:%S} UTC if this persists"
            self._set_progress(problem.reason, message, warn=True)
            self.draft.requeue_within(STARTING_S)
        elif current.ready >= count:
            self.draft.update(phase="Running")
            self._set_progress(JobReason.RUNNING, f"{count} of {count} pods run")
        else:
            self.draft.update(phase=phase)
            self._set_progress(JobReason.STARTING, f"{current.ready} of {count} pods run")
            self.draft.requeue_within(STARTING_S)
        if any(pod.live and pod.node and self.observed.nodes.get(pod.node) is not None for pod in pods):
            self.draft.requeue_within(max(1.0, self.spec.node_loss_seconds / 4))

    # -- suspension and end ----------------------------------------------------------------------------------------

    def _suspend(self) -> None:
        if self.status.phase not in ("Suspending", "Suspended"):
            self.draft.update(
                phase="Suspending",
                attempt=self.status.attempt + 1,
                active_seconds=self._active_s(),
                active_since=None,
                not_before=None,
            )
            self.draft.emit(JobReason.SUSPENDING, f"{self.place}: its pods are being deleted")
        if self._delete_obsolete():
            self.draft.set_condition(JobCondition.SUSPENDED, False, JobReason.SUSPENDING, "pods are being deleted")
            self.draft.requeue_within(5.0)
        elif self.status.phase == "Suspending":
            self.draft.update(phase="Suspended")
            self.draft.emit(JobReason.SUSPENDED, "no pod is left")
        if self.status.phase == "Suspended":
            message = "no pod is left; set spec.suspend to false to continue"
            self.draft.set_condition(JobCondition.SUSPENDED, True, JobReason.SUSPENDED, message)
        self.draft.set_condition(JobCondition.PROGRESSING, False, JobReason.SUSPENDED, "spec.suspend is set")

    def _resume(self) -> None:
        if self.status.phase not in ("Suspending", "Suspended"):
            return
        self.draft.update(phase="Pending", active_since=self.now if self.status.start_time else None)
        message = f"continues with {self.place}"
        self.draft.set_condition(JobCondition.SUSPENDED, False, JobReason.RESUMED, message)
        self.draft.emit(JobReason.RESUMED, message)

    def _active_s(self) -> int:
        since = self.status.active_since
        return self.status.active_seconds + (int((self.now - since).total_seconds()) if since else 0)

    def _fail_past_deadline(self) -> bool:
        allowed = self.spec.active_deadline_seconds
        if allowed is None:
            return False
        left = allowed - self._active_s()
        if left > 0:
            self.draft.requeue_within(left)
            return False
        last = self.draft.condition(JobCondition.PROGRESSING)
        progress = f"; last state {last.reason}: {last.message}" if last is not None else ""
        message = f"{self.place} was not done after {allowed} s (activeDeadlineSeconds){progress}"
        self._fail(JobReason.DEADLINE_EXCEEDED, message)
        return True

    def _fail(self, reason: JobReason, message: str) -> None:
        self._end("Failed")
        self.draft.set_condition(JobCondition.FAILED, True, reason, message)
        self.draft.set_condition(JobCondition.PROGRESSING, False, reason, message)
        self.draft.emit(reason, message, warn=True)

    def _end(self, phase: str) -> None:
        self.draft.update(
            phase=phase, completion_time=self.now, active_seconds=self._active_s(), active_since=None, not_before=None
        )

    def _finish_ended(self) -> Reconciliation[IRPOJobStatus]:
        """Delete what still runs of an ended job, and the job itself after its TTL. Ended Jobs stay for their logs."""
        self.draft.requeue_after_s = 5.0 if self._delete_obsolete() else ENDED_S
        ttl, end = self.spec.ttl_seconds_after_finished, self.status.completion_time
        if ttl is not None and end is not None:
            left = ttl - (self.now - end).total_seconds()
            if left <= 0:
                self.draft.actions.append(Delete(API_VERSION, "IRPOJob", self.job.name, self.job.uid))
            else:
                self.draft.requeue_within(left)
        return self._finish()

    # -- actions and status ----------------------------------------------------------------------------------------

    def _delete_obsolete(self) -> bool:
        """Delete Jobs that do not match the status; return whether one of them or a live pod of one still exists."""
        keep = None if self._over() or self.spec.suspend else self._current_job()
        remaining = False
        for job in self.observed.jobs:
            if job.state == "active" and (keep is None or job.uid != keep.uid):
                remaining = True
                if not job.deleting:
                    self._delete_job(job)
        for pod in self.observed.pods:
            if not pod.live or (keep is not None and pod.owner == keep.uid):
                continue
            if self._is_lost(pod):
                # Its node cannot confirm the end. If the pod still runs, the run's lock keeps it from doing harm.
                self.draft.actions.append(Delete("v1", "Pod", pod.name, pod.uid, now=True))
            else:
                remaining = True
        return remaining

    def _delete_job(self, job: ObservedJob) -> None:
        self.draft.actions.append(Delete("batch/v1", "Job", job.name, job.uid))

    def _set_progress(
        self, reason: JobReason, message: str, *, holds: bool = True, warn: bool = False, emit: bool | None = None
    ) -> None:
        """Set the Progressing condition. `emit`: whether with an event; by default if the reason has changed."""
        before = self.draft.condition(JobCondition.PROGRESSING)
        text = f"{self.place}: {message}"
        if emit if emit is not None else before is None or before.reason != reason:
            self.draft.emit(reason, text, warn=warn)
        self.draft.set_condition(JobCondition.PROGRESSING, holds, reason, text)

    def _finish(self) -> Reconciliation[IRPOJobStatus]:
        place = self.place
        progress = f"{self.status.steps_done}/{len(self.plan)}"
        self.draft.update(epoch=place.epoch, step=str(place.step), progress=progress)
        return self.draft.finish()
