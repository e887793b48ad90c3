"""Every condition and reason of the custom resources: when it is set, and what to do about it.

Reconcilers take their reasons from here, and `python -m operators.conditions` writes the tables of docs/operators.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class JobCondition(StrEnum):
    """Conditions of an IRPOJob. At most one of Complete and Failed becomes True, and stays so."""

    ACCEPTED = "Accepted"
    PROGRESSING = "Progressing"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class JobReason(StrEnum):
    """Reasons of an IRPOJob's conditions and events."""

    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    STARTING = "Starting"
    QUEUED = "Queued"
    NO_QUEUE = "NoQueue"
    GANG_INCOMPLETE = "GangIncomplete"
    UNSCHEDULABLE = "Unschedulable"
    RUNNING = "Running"
    STEP_COMPLETE = "StepComplete"
    POD_FAILED = "PodFailed"
    POD_LOST = "PodLost"
    NODE_LOST = "NodeLost"
    OUT_OF_MEMORY = "OutOfMemory"
    RESTARTING = "Restarting"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    COMPLETE = "Complete"
    BAD_INPUT = "BadInput"
    GUARD_FIRED = "GuardFired"
    CHILD_REFUSED = "ChildRefused"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    POD_UNSTARTABLE = "PodUnstartable"
    RESTARTS_EXHAUSTED = "RestartsExhausted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a condition or reason, and what to do about it (empty: nothing)."""

    meaning: str
    remedy: str = ""


JOB_CONDITIONS: Mapping[str, Meaning] = {
    JobCondition.ACCEPTED: Meaning(
        "The configuration passes the trainer's own checks. False fails the job before any pod is created.",
        "Correct what the message names and create the job again.",
    ),
    JobCondition.PROGRESSING: Meaning(
        "A step of the run has its pods, or is about to get them. The reason says what it is doing or waiting for."
    ),
    JobCondition.SUSPENDED: Meaning("`spec.suspend` is set and no pod of the job is left."),
    JobCondition.COMPLETE: Meaning("All steps of all epochs are done and the best epoch is registered."),
    JobCondition.FAILED: Meaning("The job has ended without a result, and none of its pods runs.", "See the reason."),
}

JOB_REASONS: Mapping[str, Meaning] = {
    JobReason.VALID: Meaning("The configuration has been checked."),
    JobReason.INVALID_SPEC: Meaning(
        "The trainer's schema refuses the configuration.",
        "Correct the field that the message names and create the job again.",
    ),
    JobReason.STARTING: Meaning("The step's pods have been requested and do not all run yet."),
    JobReason.QUEUED: Meaning("Kueue has not admitted the step yet.", "See the Workload of the step's Job."),
    JobReason.NO_QUEUE: Meaning(
        "`queueName` names a queue, but Kueue is not installed: the step is not created, because nothing would admit "
        "it.",
        "Install Kueue, which is noticed within five minutes, or create the job without `queueName`.",
    ),
    JobReason.GANG_INCOMPLETE: Meaning(
        "Some pods of a step found no node within `gangSeconds` while others held theirs. All were deleted, so that "
        "another job can use the nodes, and start again after the back-off; no restart is used.",
        "Let Kueue admit the steps (`queueName`), use a scheduler that places all pods of a step or none, or request "
        "less.",
    ),
    JobReason.UNSCHEDULABLE: Meaning(
        "The scheduler finds no node for a pod; the message holds its explanation.",
        "Wait, add nodes, request less, or create the claim that a volume names. `activeDeadlineSeconds` limits the "
        "wait.",
    ),
    JobReason.RUNNING: Meaning("All pods of the step run."),
    JobReason.STEP_COMPLETE: Meaning("A step has published its result in the run directory."),
    JobReason.POD_FAILED: Meaning(
        "A container ended with an error that a restart may fix; the whole step restarts from its last checkpoint.",
        "If it recurs, read the message: it holds the end of the container's output.",
    ),
    JobReason.POD_LOST: Meaning("A pod was evicted, preempted or deleted before it ended; the whole step restarts."),
    JobReason.NODE_LOST: Meaning(
        "A node with a pod of the step is unreachable or gone; its pods are deleted and the whole step restarts."
    ),
    JobReason.OUT_OF_MEMORY: Meaning(
        "The step ran out of memory. The first time it restarts; the second time at the same size the job fails.",
        "Raise the step's memory or GPUs, lower `optimisation.batch_per_process`, or use a higher `zero_stage`.",
    ),
    JobReason.RESTARTING: Meaning("The step waits for its back-off, and for the end of the earlier pods."),
    JobReason.SUSPENDING: Meaning("`spec.suspend` is set and pods are being deleted."),
    JobReason.SUSPENDED: Meaning("`spec.suspend` is set; no pod is left.", "Set `spec.suspend` to false to continue."),
    JobReason.RESUMED: Meaning("`spec.suspend` was set back; the step continues from its last checkpoint."),
    JobReason.COMPLETE: Meaning("The run has ended and its model is registered; see `status.modelVersion`."),
    JobReason.BAD_INPUT: Meaning(
        "A container ended with exit code 2: an input or setting that a restart cannot fix.",
        "The message names place, value and remedy.",
    ),
    JobReason.GUARD_FIRED: Meaning(
        "A training guard stopped the run (exit code 3); its evidence is in the message. Good epochs are kept.",
        "Follow the message: usually fewer or smaller steps, or more feedback.",
    ),
    JobReason.CHILD_REFUSED: Meaning(
        "The API server refuses an object that the job needs; the message holds its explanation.",
        "Free the name or quota that it names. An invalid field fails the job: correct it and create the job again.",
    ),
    JobReason.IMAGE_UNAVAILABLE: Meaning(
        "The image cannot be pulled. After five minutes the job fails.",
        "Push the image or correct the pull Secret within that time; a wrong `image` needs a new job.",
    ),
    JobReason.POD_UNSTARTABLE: Meaning(
        "A pod cannot be started, for example for lack of a Secret; the message names the cause. After five minutes "
        "the job fails.",
        "Correct what the message names within that time, or else create the job again.",
    ),
    JobReason.RESTARTS_EXHAUSTED: Meaning(
        "The job has used its `maxRestarts`; the message holds the last failure.",
        "Correct the cause, then create the job again, if necessary with more `maxRestarts`: it continues where it "
        "stopped.",
    ),
    JobReason.DEADLINE_EXCEEDED: Meaning(
        "The job has been active for longer than `activeDeadlineSeconds`, not counting time suspended; the message "
        "holds its last state.",
        "Correct the cause, then create the job again: it continues where it stopped.",
    ),
}


class ServiceCondition(StrEnum):
    """Conditions of an AuctionService."""

    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    ROLLED_BACK = "RolledBack"


class ServiceReason(StrEnum):
    """Reasons of an AuctionService's conditions and events."""

    SERVING = "Serving"
    NO_STABLE_VERSION = "NoStableVersion"
    ROUTERS_NOT_READY = "RoutersNotReady"
    POLICY_NOT_READY = "PolicyNotReady"
    STARTING = "Starting"
    ROUTERS_BEHIND = "RoutersBehind"
    NOT_VERIFIED = "NotVerified"
    CANARY = "Canary"
    HELD = "Held"
    PAUSED = "Paused"
    REPLACING = "Replacing"
    PROMOTED = "Promoted"
    ABORTED = "Aborted"
    NAME_TAKEN = "NameTaken"
    UNREADY = "Unready"
    ERROR_RATE = "ErrorRate"
    LATENCY = "Latency"
    REVENUE = "Revenue"
    CLICK_RATE = "ClickRate"
    AD_LOAD = "AdLoad"
    NONE_REJECTED = "NoneRejected"
    CHILD_REFUSED = "ChildRefused"


SERVICE_CONDITIONS: Mapping[str, Meaning] = {
    ServiceCondition.AVAILABLE: Meaning(
        "A router and a policy server of the stable version are ready.", "See the reason, then the pods' logs."
    ),
    ServiceCondition.PROGRESSING: Meaning(
        "A new version is taking over; the reason says what it is doing or waiting for. False: no rollout is under way."
    ),
    ServiceCondition.ROLLED_BACK: Meaning(
        "The version in `spec.model`, with the servers of `spec.policy`, was rolled back and the last good one serves; "
        "the reason is the guard that it broke.",
        "Set a better version, or increase `spec.rollout.attempt` to retry this one.",
    ),
}

SERVICE_REASONS: Mapping[str, Meaning] = {
    ServiceReason.SERVING: Meaning("The stable version has all of the traffic."),
    ServiceReason.NO_STABLE_VERSION: Meaning("The first version is not ready and verified yet."),
    ServiceReason.ROUTERS_NOT_READY: Meaning(
        "No router is ready.", "See the routers' logs and `/readyz`: the database, the Secrets, the policy servers."
    ),
    ServiceReason.POLICY_NOT_READY: Meaning(
        "Not all policy servers of the version are ready.",
        "The message ends with the last log line of a failed one; see its events and Triton's log.",
    ),
    ServiceReason.STARTING: Meaning("The version's servers are being created; it has no traffic."),
    ServiceReason.ROUTERS_BEHIND: Meaning(
        "Not every router follows the newest route file yet; a mounted ConfigMap takes up to two minutes.",
        "If it persists: the routers' log says why they refuse the file. The operator must reach their metrics port.",
    ),
    ServiceReason.NOT_VERIFIED: Meaning(
        "A router gives the version no traffic: its server is not ready, has other weights than `digest`, or could not "
        "write a trial answer.",
        "See the routers' log for the cause; `llm-auction triton build` prints the digest of what it built.",
    ),
    ServiceReason.CANARY: Meaning("The new version has its step's share; the message says what the next step needs."),
    ServiceReason.HELD: Meaning("`spec.rollout.maxWeight` allows no larger share.", "Raise it to continue."),
    ServiceReason.PAUSED: Meaning("`spec.rollout.paused` is set.", "Set it to false to continue."),
    ServiceReason.REPLACING: Meaning(
        "The stable version's servers are replaced one after the other, because what the operator makes of them "
        "changed: pull Secrets, `router.drainSeconds`, or the operator itself. Each must be ready for "
        "`policy.minReadySeconds` first.",
        "If it persists: the message ends with what keeps a new server from being ready. The others answer as before.",
    ),
    ServiceReason.PROMOTED: Meaning("The new version has passed all steps and is now the stable one."),
    ServiceReason.ABORTED: Meaning("`spec.model` or `spec.policy` was changed while the version was taking over."),
    ServiceReason.NAME_TAKEN: Meaning(
        "The new version has the stable one's name but other weights; it is not started.",
        "Give each version its own name.",
    ),
    ServiceReason.UNREADY: Meaning(
        "The new version had traffic and was not ready for `rollout.unreadySeconds`.", "See its pods and Triton's log."
    ),
    ServiceReason.ERROR_RATE: Meaning("More of the new version's answers failed or were cut than the guards allow."),
    ServiceReason.LATENCY: Meaning("The new version's answers took longer than the guards allow."),
    ServiceReason.REVENUE: Meaning("The new version earned less per answer than the guards allow."),
    ServiceReason.CLICK_RATE: Meaning("Readers clicked on fewer of the new version's ads than the guards allow."),
    ServiceReason.AD_LOAD: Meaning("The new version showed more ads per answer than the guards allow."),
    ServiceReason.NONE_REJECTED: Meaning("The version in `spec.model` has not been rolled back."),
    ServiceReason.CHILD_REFUSED: Meaning(
        "The API server refuses an object that the service needs; the message holds its explanation.",
        "Free the name or quota that it names, or correct the field; the operator keeps retrying.",
    ),
}


class PolicyCondition(StrEnum):
    """Conditions of a RetrainPolicy."""

    READY = "Ready"
    TRAINING = "Training"


class PolicyReason(StrEnum):
    """Reasons of a RetrainPolicy's conditions and events."""

    WATCHING = "Watching"
    BAD_SCHEDULE = "BadSchedule"
    NO_SERVICE = "NoService"
    NO_STABLE_VERSION = "NoStableVersion"
    LOOK_FAILED = "LookFailed"
    CHILD_REFUSED = "ChildRefused"
    LOOKING = "Looking"
    NOT_DUE = "NotDue"
    COOLDOWN = "Cooldown"
    PAUSED = "Paused"
    TRAINING = "Training"
    PASSED = "Passed"
    REFUSED = "Refused"
    RUN_FAILED = "RunFailed"
    PROMOTED = "Promoted"


POLICY_CONDITIONS: Mapping[str, Meaning] = {
    PolicyCondition.READY: Meaning("The service has a stable version, and the log is readable.", "See the reason."),
    PolicyCondition.TRAINING: Meaning("An IRPOJob of the policy runs. False: the reason says what it is waiting for."),
}

POLICY_REASONS: Mapping[str, Meaning] = {
    PolicyReason.WATCHING: Meaning("A Job reads the log every `look.everySeconds`."),
    PolicyReason.BAD_SCHEDULE: Meaning(
        "`spec.schedule` is invalid or never occurs, or its time zone is unknown.", "Correct it."
    ),
    PolicyReason.NO_SERVICE: Meaning("The namespace has no AuctionService of that name.", "Create it."),
    PolicyReason.NO_STABLE_VERSION: Meaning("The service has no stable version yet.", "See its conditions."),
    PolicyReason.LOOK_FAILED: Meaning(
        "The Job that reads the log failed; the message holds the end of its output. The next one is a new attempt.",
        "Correct `source.lake`, the volumes or the credentials that the message names.",
    ),
    PolicyReason.CHILD_REFUSED: Meaning(
        "The API server refuses an object that the policy needs; the message holds its explanation.",
        "Correct the field of the template, or free the name or quota that the message names.",
    ),
    PolicyReason.LOOKING: Meaning("A Job is reading the log."),
    PolicyReason.NOT_DUE: Meaning("No trigger makes a retraining due; the message says what each is waiting for."),
    PolicyReason.COOLDOWN: Meaning("The last retraining started less than `triggers.cooldown_hours` ago."),
    PolicyReason.PAUSED: Meaning("`spec.paused` is set; nothing new starts.", "Set it to false to continue."),
    PolicyReason.TRAINING: Meaning("A retraining was due and its IRPOJob runs."),
    PolicyReason.PASSED: Meaning("A retraining passed the gates; `status.lastResult` names its model."),
    PolicyReason.REFUSED: Meaning("A retraining gave no model that passes the gates; the service is unchanged."),
    PolicyReason.RUN_FAILED: Meaning("A retraining's IRPOJob failed.", "See its conditions."),
    PolicyReason.PROMOTED: Meaning("The result is now the service's `spec.model`; its rollout decides on it."),
}

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"
BEGIN, END = "<!-- conditions: generated by `make crds` -->", "<!-- end of conditions -->"
TABLES: Mapping[str, tuple[Mapping[str, Meaning], Mapping[str, Meaning]]] = {
    "IRPOJob": (JOB_CONDITIONS, JOB_REASONS),
    "AuctionService": (SERVICE_CONDITIONS, SERVICE_REASONS),
    "RetrainPolicy": (POLICY_CONDITIONS, POLICY_REASONS),
}
"""Conditions and reasons of each kind. Only the operator sets them."""


def tables() -> str:
    """Render all tables as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    for kind, parts in TABLES.items():
        for title, meanings in zip(("condition", "reason"), parts, strict=True):
            yield from ("", f"### {kind}: {title}s", "", f"| {title} | meaning | what to do |", "| --- | --- | --- |")
            yield from (f"| `{name}` | {one.meaning} | {one.remedy} |" for name, one in meanings.items())
    yield ""


def in_page(text: str) -> str:
    """Replace the tables in the page."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + tables() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(in_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
