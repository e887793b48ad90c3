"""Every condition and reason that a resource of ours can show: who sets it, when, and what to do about it.

The one place for them: reconcilers take reasons from here, `python -m operators.conditions` writes the tables of
docs/operators.md, and a test fails if they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class JobCondition(StrEnum):
    """Conditions of an IRPOJob. At most one of Complete and Failed is ever True, and then for good."""

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
    """What a condition or reason says, and what a person does about it (empty: nothing)."""

    says: str
    remedy: str = ""


JOB_CONDITIONS: Mapping[JobCondition, Meaning] = {
    JobCondition.ACCEPTED: Meaning(
        "The configuration passes the trainer's own checks. False ends the job before any pod is made.",
        "Mend what the message names and create the job anew.",
    ),
    JobCondition.PROGRESSING: Meaning(
        "A step of the run has its pods, or is about to get them. The reason says what it is doing or waiting for."
    ),
    JobCondition.SUSPENDED: Meaning("`spec.suspend` is set and no pod of the job is left."),
    JobCondition.COMPLETE: Meaning("All steps of all epochs are done and the best epoch is registered."),
    JobCondition.FAILED: Meaning("The job has ended without a result; nothing of it runs.", "See the reason."),
}

JOB_REASONS: Mapping[JobReason, Meaning] = {
    JobReason.VALID: Meaning("The configuration has been checked."),
    JobReason.INVALID_SPEC: Meaning(
        "The trainer's schema refuses the configuration.", "Mend the field that the message names, create it anew."
    ),
    JobReason.STARTING: Meaning("The step's pods have been asked for and do not all run yet."),
    JobReason.QUEUED: Meaning("Kueue has not admitted the step yet.", "See the Workload of the step's Job."),
    JobReason.UNSCHEDULABLE: Meaning(
        "The scheduler finds no node for a pod; its own words are in the message.",
        "Wait, add nodes, ask for less, or make the claim that a volume names. `activeDeadlineSeconds` bounds the "
        "wait.",
    ),
    JobReason.RUNNING: Meaning("All pods of the step run."),
    JobReason.STEP_COMPLETE: Meaning("A step has published its result in the run directory."),
    JobReason.POD_FAILED: Meaning(
        "A container ended with an error that a new start may heal; the whole step starts again from its last "
        "checkpoint.",
        "Read the message if it recurs: it holds the container's last words.",
    ),
    JobReason.POD_LOST: Meaning("A pod was evicted, preempted or deleted before its end; the whole step starts again."),
    JobReason.NODE_LOST: Meaning(
        "A node with a pod of the step has gone silent or is gone; its pods are given up and the step starts again."
    ),
    JobReason.OUT_OF_MEMORY: Meaning(
        "The step ran out of memory. Once, it starts again; twice at the same size, the job fails.",
        "Raise the step's memory or GPUs, lower `optimisation.batch_per_process`, or take a higher `zero_stage`.",
    ),
    JobReason.RESTARTING: Meaning("The step waits for its back-off and for the pods before it to be gone."),
    JobReason.SUSPENDING: Meaning("`spec.suspend` is set and pods are ending."),
    JobReason.SUSPENDED: Meaning("`spec.suspend` is set; no pod is left.", "Set `spec.suspend` to false to go on."),
    JobReason.RESUMED: Meaning("`spec.suspend` was lifted; the step goes on from its last checkpoint."),
    JobReason.COMPLETE: Meaning("The run has ended and its model is registered; see `status.modelVersion`."),
    JobReason.BAD_INPUT: Meaning(
        "A container ended with exit code 2: an input or setting that no new start mends.",
        "The message names place, value and remedy.",
    ),
    JobReason.GUARD_FIRED: Meaning(
        "A guard of the training stopped the run (exit code 3), with its evidence in the message; good epochs stay.",
        "Follow the message: most often fewer or smaller steps, or more feedback.",
    ),
    JobReason.CHILD_REFUSED: Meaning(
        "The API server refuses an object that the job needs; its own words are in the message.",
        "Free the name or quota that it names; a field that it calls invalid ends the job: create it anew.",
    ),
    JobReason.IMAGE_UNAVAILABLE: Meaning(
        "The image cannot be pulled. After five minutes of it the job fails.",
        "Push the image or mend the pull Secret within that time; a wrong `image` needs a new job.",
    ),
    JobReason.POD_UNSTARTABLE: Meaning(
        "A pod cannot be started: a missing Secret, a refused field; the message says which. After five minutes of it "
        "the job fails.",
        "Mend what the message names, within that time; else create the job anew.",
    ),
    JobReason.RESTARTS_EXHAUSTED: Meaning(
        "The job has used `maxRestarts`; the message holds the last failure.",
        "Mend the cause, then create the job anew, with more `maxRestarts` if needed: it goes on where it was.",
    ),
    JobReason.DEADLINE_EXCEEDED: Meaning(
        "The job has been active for longer than `activeDeadlineSeconds`, time suspended not counted; the message says "
        "what it waited for at last.",
        "Mend that, then create the job anew: it goes on where it was.",
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


SERVICE_CONDITIONS: Mapping[ServiceCondition, Meaning] = {
    ServiceCondition.AVAILABLE: Meaning(
        "A router is ready, and so are policy servers of the stable version.", "See the reason, then the pods' logs."
    ),
    ServiceCondition.PROGRESSING: Meaning(
        "A new version is taking over; the reason says what it is doing or waiting for. False: there is none."
    ),
    ServiceCondition.ROLLED_BACK: Meaning(
        "The version in `spec.model` was given up and the last good one serves; the reason is the guard that it broke.",
        "Name a better version, or raise `spec.rollout.attempt` to try this one again.",
    ),
}

SERVICE_REASONS: Mapping[ServiceReason, Meaning] = {
    ServiceReason.SERVING: Meaning("The stable version has all of the traffic."),
    ServiceReason.NO_STABLE_VERSION: Meaning("The first version is not ready and verified yet."),
    ServiceReason.ROUTERS_NOT_READY: Meaning(
        "No router is ready.", "See the routers' logs and `/readyz`: the database, the Secrets, the policy servers."
    ),
    ServiceReason.POLICY_NOT_READY: Meaning(
        "Policy servers of the version are not all ready.",
        "The message ends with the last line of one that failed; its events and Triton's log say more.",
    ),
    ServiceReason.STARTING: Meaning("The version's servers are being made; it has no traffic."),
    ServiceReason.ROUTERS_BEHIND: Meaning(
        "Not every router follows the newest route file yet; a mounted ConfigMap takes up to a minute or two.",
        "If it stays: the routers' log says why they refuse the file; the operator must reach their metrics port.",
    ),
    ServiceReason.NOT_VERIFIED: Meaning(
        "A router gives the version no traffic: its server is not ready, has other weights than `digest`, or could not "
        "write a trial answer.",
        "The routers' log says which; `llm-auction triton build` prints the digest of what it built.",
    ),
    ServiceReason.CANARY: Meaning("The new version has its step's share; the message says what the next step needs."),
    ServiceReason.HELD: Meaning("`spec.rollout.maxWeight` allows no larger share.", "Raise it to go on."),
    ServiceReason.PAUSED: Meaning("`spec.rollout.paused` is set.", "Set it to false to go on."),
    ServiceReason.PROMOTED: Meaning("The new version has passed all steps and is the stable one now."),
    ServiceReason.ABORTED: Meaning("`spec.model` was changed while the version was taking over."),
    ServiceReason.NAME_TAKEN: Meaning(
        "The new version has the stable one's name and other weights; it is not started.", "Name each version once."
    ),
    ServiceReason.UNREADY: Meaning(
        "The new version had traffic and was not ready for `rollout.unreadySeconds`.", "See its pods and Triton's log."
    ),
    ServiceReason.ERROR_RATE: Meaning("More of the new version's answers failed than the guards allow."),
    ServiceReason.LATENCY: Meaning("The new version's answers took longer than the guards allow."),
    ServiceReason.REVENUE: Meaning("The new version earned less per answer than the guards allow."),
    ServiceReason.CLICK_RATE: Meaning("Readers clicked on fewer of the ads that the new version showed."),
    ServiceReason.AD_LOAD: Meaning("The new version showed more ads per answer than the guards allow."),
    ServiceReason.NONE_REJECTED: Meaning("The version in `spec.model` has not been given up."),
    ServiceReason.CHILD_REFUSED: Meaning(
        "The API server refuses an object that the service needs; its own words are in the message.",
        "Free the name or quota that it names, or mend the field; the service is looked at again and again.",
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


POLICY_CONDITIONS: Mapping[PolicyCondition, Meaning] = {
    PolicyCondition.READY: Meaning("The service has a stable version, and the log can be read.", "See the reason."),
    PolicyCondition.TRAINING: Meaning("An IRPOJob of the policy runs. False: the reason says what is waited for."),
}

POLICY_REASONS: Mapping[PolicyReason, Meaning] = {
    PolicyReason.WATCHING: Meaning("The log is looked at every `look.everySeconds`."),
    PolicyReason.BAD_SCHEDULE: Meaning("`spec.schedule` never comes, or its time zone is unknown.", "Mend it."),
    PolicyReason.NO_SERVICE: Meaning("There is no AuctionService of that name in the namespace.", "Make it."),
    PolicyReason.NO_STABLE_VERSION: Meaning("The service has no stable version yet.", "See its conditions."),
    PolicyReason.LOOK_FAILED: Meaning(
        "The Job that looks at the log failed, with its last words in the message; there will be another.",
        "Mend `source.shards`, the volumes or the credentials that it names.",
    ),
    PolicyReason.CHILD_REFUSED: Meaning(
        "The API server refuses an object that the policy makes; its own words are in the message.",
        "Mend the field of the template, or free the name or quota that it names.",
    ),
    PolicyReason.LOOKING: Meaning("A Job looks at the log."),
    PolicyReason.NOT_DUE: Meaning("No trigger speaks for a retraining; the message says what each waits for."),
    PolicyReason.COOLDOWN: Meaning("The last retraining began less than `triggers.cooldown_hours` ago."),
    PolicyReason.PAUSED: Meaning("`spec.paused` is set; nothing new is begun.", "Set it to false to go on."),
    PolicyReason.TRAINING: Meaning("A retraining was due and its IRPOJob runs."),
    PolicyReason.PASSED: Meaning("A retraining passed the gates; `status.lastResult` names its model."),
    PolicyReason.REFUSED: Meaning("A retraining ended without a model that passes the gates; the service stays."),
    PolicyReason.RUN_FAILED: Meaning("A retraining's IRPOJob failed.", "See its conditions."),
    PolicyReason.PROMOTED: Meaning("The result became the service's `spec.model`; its canary decides on."),
}

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"
BEGIN, END = "<!-- conditions: made by `make crds` -->", "<!-- end of conditions -->"
TABLES: Mapping[str, tuple[Mapping[Any, Meaning], Mapping[Any, Meaning]]] = {
    "IRPOJob": (JOB_CONDITIONS, JOB_REASONS),
    "AuctionService": (SERVICE_CONDITIONS, SERVICE_REASONS),
    "RetrainPolicy": (POLICY_CONDITIONS, POLICY_REASONS),
}
"""Conditions and reasons of each kind. The operator sets all of them, and nobody else does."""


def tables() -> str:
    """All of them as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    for kind, parts in TABLES.items():
        for title, meanings in zip(("condition", "reason"), parts, strict=True):
            yield from ("", f"### {kind}: {title}s", "", f"| {title} | says | what to do |", "| --- | --- | --- |")
            yield from (f"| `{name}` | {meaning.says} | {meaning.remedy} |" for name, meaning in meanings.items())
    yield ""


def in_page(text: str) -> str:
    """A page with the tables between their marks as they are now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + tables() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(in_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
