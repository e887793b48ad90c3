"""RetrainPolicy: when a served model is trained anew from its own log, how, and what becomes of the result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from operators.resources.base import ApiModel, Condition, Moment, Name, checked, rule
from operators.resources.irpojob import IRPOJobSpec, StepPods
from operators.resources.pods import Labels, NamedObject
from operators.resources.structural import inlined
from operators.resources.training import GatesField, check_training, template_schema
from trainers.config import TriggerConfig


def _triggers(value: dict[str, Any]) -> dict[str, Any]:
    TriggerConfig.model_validate(value)
    return value


Triggers = Annotated[dict[str, Any], AfterValidator(_triggers), WithJsonSchema(inlined(TriggerConfig))]


def _lasting(model: type[ApiModel]) -> list[dict[str, str]]:
    """A model's rules without those that compare with what was before, since a template may change, and without those
    on what a template leaves out."""
    extra: Any = model.model_config["json_schema_extra"]
    rules: list[dict[str, str]] = extra["x-kubernetes-validations"]
    foreign = ("oldSelf", "self.gates", "self.config.epochs")
    return [one for one in rules if not any(word in one["rule"] for word in foreign)]


TemplateTraining = Annotated[dict[str, Any], AfterValidator(check_training), WithJsonSchema(template_schema())]


class TemplateSpec(IRPOJobSpec):
    """An IRPOJob's specification. Base model, feedback and epochs follow from the policy."""

    model_config = checked(
        *_lasting(IRPOJobSpec),
        rule("!has(self.config.base)", "leave out config.base: it is the service's stable version"),
        rule(
            "!has(self.config.feedback) || !(has(self.config.feedback.source) || has(self.config.feedback.path) ||"
            " has(self.config.feedback.judge) || has(self.config.feedback.since) || has(self.config.feedback.until))",
            "leave out source, path, judge, since and until of config.feedback: they follow from the policy's source",
        ),
        rule(
            "!has(self.config.epochs) || self.config.epochs == 1",
            "leave out config.epochs: it is 1, for a log is that of one policy",
        ),
        rule("!has(self.gates)", "leave out gates: they are the policy's own"),
        rule("!has(self.config.warm_start)", "leave out config.warm_start: the stable version was warmed"),
        rule("!self.suspend", "leave out suspend: pause the policy, or suspend its job"),
    )

    config: TemplateTraining
    """The run's configuration, as in the file for `llm-auction train`, without base model, feedback and epochs."""


class Template(ApiModel):
    """What is made when a retraining is due."""

    labels: Labels = Field({})
    """Labels of the IRPOJob."""
    annotations: Labels = Field({})
    """Annotations of the IRPOJob."""
    spec: TemplateSpec
    """Specification of the IRPOJob. The service's versions are in the registry at its storage.url."""


class Schedule(ApiModel):
    """Moments at which a retraining is made, if there is enough to learn from."""

    cron: Annotated[str, Field(pattern=r"^(@(hourly|daily|weekly|monthly)|(\S+\s+){4}\S+)$", max_length=128)]
    """Minute, hour, day, month and weekday, such as `0 3 * * *`."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """Time zone, such as Europe/Paris."""


class Source(ApiModel):
    """The log to learn from."""

    shards: Annotated[str, Field(min_length=1, max_length=1024)]
    """Folder on a volume of the template, or URL (s3://bucket/prefix), that `llm-auction worker feedback` writes to."""


class Look(ApiModel):
    """How the log is looked at: by a Job with the template's image, volumes and variables."""

    every_seconds: Annotated[int, Field(ge=30, le=86_400)] = 600
    """Seconds between two looks."""
    pods: StepPods = StepPods()
    """The Job's one pod."""


class History(ApiModel):
    """How many ended IRPOJobs stay. Their run directories and models stay in any case."""

    complete: Annotated[int, Field(ge=0, le=100)] = 3
    """Complete ones."""
    failed: Annotated[int, Field(ge=0, le=100)] = 3
    """Failed ones."""


class RetrainPolicySpec(ApiModel):
    """When to train anew, from what, how, and what becomes of the result."""

    model_config = checked(
        rule(
            "self.source.shards.contains('://') || self.template.spec.volumes.exists(v,"
            " self.source.shards == v.mountPath || self.source.shards.startsWith(v.mountPath + '/'))",
            "source.shards must lie below the mountPath of a volume of the template, or be a URL",
        ),
    )
    service: NamedObject
    """The AuctionService whose stable version is trained on; of the same namespace."""
    source: Source
    """The log to learn from."""
    triggers: Triggers = Field({}, validate_default=False)
    """When a retraining is due: by number of new judged interactions, age or drift; in the trainer's spelling."""
    schedule: Schedule | None = None
    """When one is due by the clock, beside the triggers."""
    look: Look = Look()
    """How the log is looked at."""
    template: Template
    """The IRPOJob to make."""
    gates: GatesField = Field({}, validate_default=False)
    """What must hold before a result is offered to the service, measured on the log against the stable version:
    off-policy estimates, the click predictor, monotonicity, quality, invalid insertions, latency; in the trainer's
    spelling."""
    promote: bool = False
    """Whether a result that passes becomes the service's `spec.model`, whose canary then decides. The field is taken
    over from whoever else writes it. False: the status names the result, and somebody else decides."""
    history: History = History()
    """How many ended IRPOJobs stay."""
    paused: bool = False
    """Nothing new is begun; what runs goes on."""

    def trigger_config(self) -> TriggerConfig:
        """The triggers with their defaults."""
        return TriggerConfig.model_validate(self.triggers)


class Seen(ApiModel):
    """What the last look at the log found."""

    time: Moment
    """When."""
    serving: str
    """The stable version at that time."""
    new: int
    """Usable judged interactions since the last retraining."""
    watermark: Moment | None = None
    """Up to when the log is complete."""
    due: bool
    """Whether a retraining was due by the triggers."""
    trigger: str | None = None
    """Which of them."""
    reason: str
    """Why, or what it is waiting for."""


class Result(ApiModel):
    """What became of a retraining."""

    job: str
    """Its IRPOJob."""
    trigger: str
    """What made it due."""
    outcome: Literal["Passed", "Refused", "Failed"]
    """Passed the gates, refused by them, or failed before."""
    message: str
    """Why."""
    model: str | None = None
    """The registered version."""
    digest: str | None = None
    """sha256 of its weights."""
    time: Moment
    """When."""


class RetrainPolicyStatus(ApiModel):
    """What the operator has seen and done."""

    observed_generation: int = 0
    """The generation of the policy that this status is about."""
    phase: Literal["Waiting", "Looking", "Training", "Paused"] = "Waiting"
    """In one word."""
    waiting_for: str = ""
    """What it is waiting for, in words."""
    looks: int = 0
    """Looks at the log; part of the names of their Jobs."""
    look_since: Moment | None = None
    """When the last look began."""
    asked: str = ""
    """What asked for a retraining whatever the triggers say; empty: nothing."""
    looked: Moment | None = None
    """When the last look ended."""
    seen: Seen | None = None
    """What the last look that succeeded found."""
    runs: int = 0
    """Retrainings so far; part of the names of their IRPOJobs."""
    active: Name | None = None
    """The IRPOJob that runs."""
    active_trigger: str = ""
    """What made it due."""
    active_base: str = ""
    """The version that it begins from."""
    last_run: Moment | None = None
    """When the last retraining began."""
    last_scheduled: Moment | None = None
    """The last moment of the schedule that was heeded."""
    next_scheduled: Moment | None = None
    """The next one."""
    last_result: Result | None = None
    """What became of the last retraining."""
    conditions: list[Condition] = Field([])
    """Ready and Training, with reasons and messages."""
