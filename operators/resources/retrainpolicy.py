"""RetrainPolicy: when and how a served model is retrained from its log, and whether the result is promoted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from operators.resources.base import ApiModel, Condition, Manifest, Moment, Name, Status, checked, rule
from operators.resources.irpojob import IRPOJobSpec, StepPods
from operators.resources.pods import Labels, NamedObject
from operators.resources.structural import inlined
from operators.resources.training import GatesField, check_training, template_schema
from trainers.config import TriggerConfig


def _triggers(value: Manifest) -> Manifest:
    TriggerConfig.model_validate(value)
    return value


Triggers = Annotated[Manifest, AfterValidator(_triggers), WithJsonSchema(inlined(TriggerConfig))]


def _template_rules(model: type[ApiModel]) -> list[dict[str, str]]:
    """Return a model's rules, without those on immutability and on fields that a template leaves out."""
    extra: Any = model.model_config["json_schema_extra"]
    rules: list[dict[str, str]] = extra["x-kubernetes-validations"]
    excluded = ("oldSelf", "self.gates", "self.config.epochs", "self.steps.feedback")
    return [one for one in rules if not any(word in one["rule"] for word in excluded)]


TemplateTraining = Annotated[Manifest, AfterValidator(check_training), WithJsonSchema(template_schema())]


class TemplateSpec(IRPOJobSpec):
    """An IRPOJob's specification. The policy determines base model, feedback source and epochs."""

    model_config = checked(
        *_template_rules(IRPOJobSpec),
        rule("!has(self.config.base)", "leave out config.base: it is the service's stable version"),
        rule(
            "!has(self.config.feedback) || !(has(self.config.feedback.source) || has(self.config.feedback.path) ||"
            " has(self.config.feedback.judge) || has(self.config.feedback.since) || has(self.config.feedback.until))",
            "leave out source, path, judge, since and until of config.feedback: they follow from the policy's source",
        ),
        rule(
            "!has(self.config.epochs) || self.config.epochs == 1",
            "leave out config.epochs: it is 1, because a log comes from one policy",
        ),
        rule("!has(self.steps.feedback)", "leave out steps.feedback: the step reward takes one snapshot of the log"),
        rule("!has(self.gates)", "leave out gates: set them in the policy's spec.gates"),
        rule("!has(self.config.warm_start)", "leave out config.warm_start: the stable version is warm-started already"),
        rule("!self.suspend", "leave out suspend: set the policy's spec.paused, or suspend its IRPOJob"),
    )

    config: TemplateTraining
    """Configuration of the run, as in a file for `llm-auction train`, without base, feedback source and epochs."""


class Template(ApiModel):
    """The IRPOJob that is created when a retraining is due."""

    labels: Labels = Field({})
    """Labels of the IRPOJob."""
    annotations: Labels = Field({})
    """Annotations of the IRPOJob."""
    spec: TemplateSpec
    """Specification of the IRPOJob. Its storage.url must hold the registry with the service's versions."""


class Schedule(ApiModel):
    """Times at which a retraining starts, provided that `triggers.at_least` interactions are new."""

    cron: Annotated[str, Field(pattern=r"^(@(hourly|daily|weekly|monthly)|(\S+\s+){4}\S+)$", max_length=128)]
    """Minute, hour, day, month and weekday, such as `0 3 * * *`; or @hourly, @daily, @weekly, @monthly."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """Time zone of the schedule, such as Europe/Paris."""


class Source(ApiModel):
    """The log of judged interactions."""

    lake: Annotated[str, Field(min_length=1, max_length=1024)]
    """Folder on a volume of the template, or URL (s3://bucket/prefix), written by `llm-auction worker lake`."""


class Look(ApiModel):
    """The Job that reads the log to decide whether a retraining is due; it has the template's image and volumes."""

    every_seconds: Annotated[int, Field(ge=30, le=86_400)] = 600
    """Seconds between two such Jobs."""
    pods: StepPods = StepPods()
    """Pod of the Job."""


class History(ApiModel):
    """How many ended IRPOJobs are kept. Their run directories and models are always kept."""

    complete: Annotated[int, Field(ge=0, le=100)] = 3
    """Complete IRPOJobs to keep."""
    failed: Annotated[int, Field(ge=0, le=100)] = 3
    """Failed IRPOJobs to keep."""


class RetrainPolicySpec(ApiModel):
    """When to retrain, from which log, how, and whether to promote the result."""

    model_config = checked(
        rule(
            "self.source.lake.contains('://') || self.template.spec.volumes.exists(v,"
            " self.source.lake == v.mountPath || self.source.lake.startsWith(v.mountPath + '/'))",
            "source.lake must lie below the mountPath of a volume of the template, or be a URL",
        ),
    )
    service: NamedObject
    """The AuctionService, in the same namespace, whose stable version is retrained."""
    source: Source
    """The log to train on."""
    triggers: Triggers = Field({}, validate_default=False)
    """When a retraining is due: by number of new judged interactions, age or drift, with the trainer's field names."""
    schedule: Schedule | None = None
    """When one is due by the clock, in addition to the triggers."""
    look: Look = Look()
    """How often and with which pod the log is checked."""
    template: Template
    """The IRPOJob to create."""
    gates: GatesField = Field({}, validate_default=False)
    """Gates that a result must pass, measured on the log against the stable version: off-policy estimates, the click
    predictor, monotonicity, quality, invalid insertions, latency; with the trainer's field names."""
    promote: bool = False
    """Whether a result that passes becomes the service's `spec.model`, so that its rollout begins. The operator then
    takes the field over from other writers. Without it the status only names the result."""
    history: History = History()
    """How many ended IRPOJobs are kept."""
    paused: bool = False
    """Start nothing new; a running retraining continues."""

    def trigger_config(self) -> TriggerConfig:
        """Return the triggers with their defaults."""
        return TriggerConfig.model_validate(self.triggers)


class Seen(ApiModel):
    """Result of a Job that read the log."""

    time: Moment
    """Time of the result."""
    serving: str
    """The stable version at that time."""
    new: int
    """Usable judged interactions since the last retraining."""
    watermark: Moment | None = None
    """Time up to which the log is complete."""
    due: bool
    """Whether a trigger made a retraining due."""
    trigger: str | None = None
    """The trigger."""
    reason: str
    """Why a retraining is due, or what it is waiting for."""


class Result(ApiModel):
    """Result of a retraining."""

    job: str
    """Name of its IRPOJob."""
    trigger: str
    """Why it started: a trigger, or the schedule."""
    outcome: Literal["Passed", "Refused", "Failed"]
    """Whether it passed the gates, was refused by them, or failed before."""
    message: str
    """Cause of the outcome."""
    model: str | None = None
    """The registered version."""
    digest: str | None = None
    """sha256 of its weights."""
    time: Moment
    """Time at which the operator noticed it."""


class RetrainPolicyStatus(Status):
    """State of the policy as the operator observed it."""

    phase: Literal["Waiting", "Looking", "Training", "Paused"] = "Waiting"
    """Summary in one word."""
    waiting_for: str = ""
    """What the policy is waiting for, as text."""
    looks: int = 0
    """Number of Jobs that have read the log so far; part of their names."""
    look_since: Moment | None = None
    """Start of the Job that reads the log now."""
    asked: str = ""
    """What has requested a retraining in addition to the triggers: `schedule`, or empty."""
    looked: Moment | None = None
    """End of the last Job that read the log."""
    seen: Seen | None = None
    """Result of the last such Job that succeeded."""
    runs: int = 0
    """Number of retrainings so far; part of the names of their IRPOJobs."""
    active: Name | None = None
    """The running IRPOJob."""
    active_trigger: str = ""
    """Why it started: a trigger, or the schedule."""
    active_base: str = ""
    """The version that it starts from."""
    last_run: Moment | None = None
    """Start of the last retraining."""
    last_scheduled: Moment | None = None
    """The last scheduled time that the operator acted on."""
    next_scheduled: Moment | None = None
    """The next scheduled time."""
    last_result: Result | None = None
    """Result of the last retraining."""
    conditions: list[Condition] = Field([])
    """Ready and Training, with reasons and messages."""
