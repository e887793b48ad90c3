"""AuctionService: routers, policy servers for each policy version, and the rollout of a new version."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from operators.resources.base import (
    ApiModel,
    Condition,
    Moment,
    Name,
    Quantity,
    Status,
    checked,
    checked_value,
    rule,
)
from operators.resources.pods import Image, MountPath, NamedObject
from operators.resources.routers import VOLUMES, Pods, Replicas, Router, Share

Ratio = Annotated[float, Field(gt=0, le=100)]
Seconds = Annotated[int, Field(ge=0, le=2_592_000)]
Percent = Annotated[int, Field(ge=1, le=100)]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]


Digest = Annotated[
    str,
    Field(pattern="^[0-9a-f]{64}$"),
    checked_value(
        128, rule("self.matches('^[0-9a-f]{64}$')", "give 64 hex digits, as `llm-auction triton build` prints them")
    ),
]


class Model(ApiModel):
    """A version of the policy."""

    name: Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
    """Name of the version; with `policy.source.registry` that of the registered model."""
    digest: Digest
    """sha256 of its weights, as `llm-auction triton build` prints it. A version with other weights gets no traffic."""
    base: Digest | None = None
    """For an adapter that `llm-auction triton build --shared` built: sha256 of its base. Versions on one base share the
    policy servers, so that a new one needs no others."""


class Source(ApiModel):
    """Source of the models: either field. A folder must lie below the mountPath of a volume."""

    model_config = checked(rule("has(self.repository) != has(self.registry)", "give one of repository and registry"))
    repository: MountPath | None = None
    """Folder of a Triton model repository, as built by `llm-auction triton build`."""
    registry: Annotated[str, Field(pattern=r"^(/|[a-z][a-z0-9+.-]*://)[^:]*[^:/]$", max_length=1024)] | None = None
    """Folder or URL (s3://bucket/prefix) that contains `models/`: an IRPOJob's storage.url. Each pod builds its model
    repository from it. Set the variables of an object store by env and envFrom."""


class Policy(Pods):
    """The policy servers: Triton Inference Server, one Deployment per version.

    A change of these fields, except `replicas` and `minReadySeconds`, starts a rollout as a change of the model does.
    """

    model_config = checked(
        *VOLUMES,
        rule(
            "!has(self.source.repository) || self.volumes.exists(v, self.source.repository == v.mountPath ||"
            " self.source.repository.startsWith(v.mountPath + '/'))",
            "source.repository must lie below the mountPath of a volume",
        ),
        rule(
            "!has(self.source.registry) || !self.source.registry.startsWith('/') || self.volumes.exists(v,"
            " self.source.registry == v.mountPath || self.source.registry.startsWith(v.mountPath + '/'))",
            "source.registry must lie below the mountPath of a volume, or be a URL",
        ),
    )
    image: Image
    """Container image with tritonserver and the packages of the policy."""
    source: Source
    """Source of the models."""
    replicas: Replicas = 1
    """Number of policy servers for all questions. A version that takes over has as many as its share needs."""
    min_ready_seconds: Annotated[int, Field(ge=0, le=3600)] = 60
    """Seconds for which a server must be ready before the next one goes, where servers are replaced one by one."""
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs of each pod."""
    gpu_resource: Name = "nvidia.com/gpu"
    """Name of the resource that counts GPUs."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, by which Triton communicates with its Python processes; it counts as the pod's memory."""
    start_seconds: Annotated[int, Field(ge=10, le=7200)] = 600
    """Seconds that a server may take to load its model before it is restarted."""
    args: list[Annotated[str, Field(min_length=1, max_length=1024)]] = Field([], max_length=64)
    """Further arguments of tritonserver."""


class ServerSettings(Policy):
    """All that a version's servers depend on, apart from its weights."""

    builder_image: str = ""
    """Image that builds the model repository from the registry: the routers'."""

    @classmethod
    def of(cls, spec: AuctionServiceSpec) -> ServerSettings:
        """Return the settings that a specification asks for; the number of servers is none of them."""
        own = spec.policy.model_dump(exclude={"replicas", "min_ready_seconds"})
        return cls(**own, builder_image=spec.router.image if spec.policy.source.registry is not None else "")

    def revision(self, loaded: str) -> str:
        """Return 12 digits that identify servers with these settings that load the weights of a digest."""
        content = [loaded, self.model_dump(mode="json", exclude_defaults=True)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def differences(self, other: ServerSettings) -> str:
        """Name the fields in which other settings differ, as in `spec.policy`."""
        here, there = self.to_api(), other.to_api()
        return ", ".join(sorted(key for key in {*here, *there} if here.get(key) != there.get(key)))


class CanaryStep(ApiModel):
    """A share of the traffic and its duration."""

    weight: Percent
    """Share of the questions that the new version answers, in per cent."""
    pause_seconds: Seconds = 300
    """Least duration of the step. It also lasts until the new version has `guards.minAnswers` answers, and the last one
    until the guard calls the version safe."""


class Guards(ApiModel):
    """Limits for a new version while it has traffic.

    Both versions are compared by the answers of the same minutes. The new one is rolled back if it is worse beyond
    chance and by more than a limit; it is safe, and may have all traffic, once twice every limit is excluded.
    """

    min_answers: Annotated[int, Field(ge=0, le=10_000_000)] = 200
    """Answers of the new version before its share grows."""
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.99
    """Confidence for a whole rollout: at 0.99 at most one in a hundred versions that equal the stable one is rolled
    back, and at most one in a hundred that are worse by twice a limit is called safe."""
    patience_seconds: Seconds = 21_600
    """Longest duration of the last step: a version that is neither worse nor safe by then is promoted."""
    max_error_rate: Share = 0.02
    """Largest share of answers that failed or were cut."""
    max_error_rise: Share = 0.01
    """Largest increase of that share over the stable version's."""
    max_latency_ratio: Ratio = 1.25
    """Largest ratio of the 95th percentile of seconds per answer to the stable version's."""
    min_revenue_ratio: Ratio = 0.9
    """Smallest ratio of revenue per answer to the stable version's."""
    min_click_rate_ratio: Ratio = 0.8
    """Smallest ratio of clicks per shown ad to the stable version's (readers' experience)."""
    max_ad_load_ratio: Ratio = 1.25
    """Largest ratio of shown ads per answer to the stable version's (readers' experience)."""


class Rollout(ApiModel):
    """The rollout of a new version."""

    model_config = checked(
        rule(
            "self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1) &&"
            " self.steps.map(s, s.weight).isSorted()",
            "weights of steps must increase",
        )
    )
    steps: list[CanaryStep] = Field([CanaryStep(weight=5), CanaryStep(weight=25), CanaryStep(weight=50)], max_length=16)
    """Shares before 100 per cent; without steps a version gets all traffic as soon as it is ready and verified."""
    guards: Guards = Guards()
    """Limits meanwhile; a version that breaks one is rolled back."""
    max_weight: Annotated[int, Field(ge=0, le=100)] = 100
    """Largest share of a new version, in per cent, until it is raised. 0: the version is loaded and verified only."""
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 1
    """Servers of the stable version, of those that its share needs, that may be given up for the new version where the
    nodes have no room for both. At least one stays: a single server needs room for a second one."""
    paused: bool = False
    """Take no further step; the guards stay active."""
    attempt: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Increase it to retry a version that was rolled back."""
    ready_seconds: Annotated[int, Field(ge=10, le=86_400)] = 1200
    """Seconds within which a new version must be ready and verified; otherwise it is rolled back."""
    unready_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds for which a new version with traffic may be unready before it is rolled back."""
    keep_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """Seconds for which the previous version's servers are kept after a promotion, for a quick return."""


class AuctionServiceSpec(ApiModel):
    """What to serve, with which routers and policy servers, and how to roll out a new version."""

    model: Model
    """The version to serve. A change starts a rollout, as one of `policy` does."""
    router: Router
    """The routers."""
    policy: Policy
    """The policy servers."""
    rollout: Rollout = Rollout()
    """The rollout of a new version."""
    image_pull_policy: PullPolicy = "IfNotPresent"
    """When to pull images."""
    image_pull_secrets: list[NamedObject] = Field([], max_length=16)
    """Pull Secrets of the images' registry."""


class Served(ApiModel):
    """A version and its servers."""

    name: str
    """Name of the version."""
    digest: str
    """sha256 of its weights."""
    base: str = ""
    """sha256 of its base's weights, if it is an adapter beside others."""
    revision: str = ""
    """What tells its servers apart from others of the same weights with other settings; empty for the first ones."""

    @property
    def loaded(self) -> str:
        """sha256 of the weights that its servers load at their start."""
        return self.base or self.digest

    @property
    def key(self) -> str:
        """The key that names its servers' objects; adapters that share their servers have the same."""
        return self.revision or self.loaded[:12]

    @property
    def identity(self) -> tuple[str, str]:
        """Its weights and its servers."""
        return self.digest, self.key

    @property
    def route(self) -> str:
        """Its name in the route file and in messages."""
        return f"{self.name}+{self.revision}" if self.revision else self.name


class Traffic(ApiModel):
    """A version in the route file."""

    name: str
    """Name of the version, with its servers' revision behind a +."""
    digest: str
    """sha256 of its weights."""
    key: str = ""
    """Key that names its servers' objects."""
    base: str = ""
    """sha256 of its base's weights, if it is an adapter beside others."""
    revision: str = ""
    """Revision of its servers."""
    weight: int
    """Share of the questions that routers should send to it, in per cent."""
    ready: bool
    """Whether its servers are ready and every router has verified its weights."""
    reason: str = ""
    """Why it is not ready."""


class Rejected(ApiModel):
    """A version that was rolled back."""

    name: str
    """Name of the version."""
    digest: str
    """sha256 of its weights."""
    revision: str = ""
    """Digest of its weights and its servers' settings."""
    attempt: int
    """`spec.rollout.attempt` at that time."""
    reason: str
    """Reason in one word; see docs/operators.md."""
    message: str
    """The measured value and the limit."""
    time: Moment
    """Time of the rollback."""


class Retiring(Served):
    """A version without traffic whose servers still run."""

    until: Moment
    """Earliest time at which the servers are deleted."""


class Compared(ApiModel):
    """What routers counted of a version since the rollout began; money and clicks once they are complete."""

    answers: int = 0
    """Answers, including failed ones."""
    error_rate: float = 0
    """Share of answers that failed or were cut."""
    p95_seconds: float | None = None
    """95th percentile of seconds per answer, from the histogram."""
    revenue_micros_per_answer: float = 0
    """Revenue per answer, in micros."""
    ads_per_answer: float = 0
    """Shown ads per answer."""
    click_rate: float | None = None
    """Clicks per shown ad."""


class Comparing(ApiModel):
    """By how much the candidate is worse than the stable version in one figure; negative where it is better."""

    figure: str
    """What is compared."""
    harm: float
    """How much worse it is: as a share, or as a share of the stable version's value."""
    low: float | None = None
    """Lower bound of it."""
    high: float | None = None
    """Upper bound of it."""
    limit: float
    """What is tolerated."""
    verdict: str
    """What this figure alone asks for: keep going, roll back, or safe."""


Settings = Annotated[ServerSettings, WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]


class AuctionServiceStatus(Status):
    """State of the service as the operator observed it."""

    phase: Literal["Pending", "Serving", "Starting", "Canary", "Held", "Paused", "RolledBack"] = "Pending"
    """Summary in one word."""
    stable: Served | None = None
    """The last version that passed its rollout."""
    candidate: Served | None = None
    """The version that is being rolled out."""
    settings: dict[str, Settings] = Field({})
    """Settings of the servers of each version, by their revision or the first 12 digits of the digest that they
    load."""
    step: int = -1
    """The candidate's step, from 0; -1 while it has no traffic."""
    weight: int = 0
    """The candidate's share in per cent."""
    candidate_replicas: int = 0
    """Policy servers of the candidate: as many as its share, or its next step, needs."""
    stable_replicas: int | None = None
    """Policy servers that the stable version has left where the nodes have no room for both; else all."""
    step_since: Moment | None = None
    """Start of the step."""
    canary_since: Moment | None = None
    """Since when the candidate has traffic: both versions are compared from then on."""
    unready_since: Moment | None = None
    """Since when a candidate with traffic has not been ready."""
    traffic: list[Traffic] = Field([])
    """All versions in the route file."""
    routes_generation: int = 0
    """Generation of the route file; routers report which one they follow."""
    rejected: Rejected | None = None
    """The last version that was rolled back."""
    retiring: list[Retiring] = Field([])
    """Versions without traffic whose servers still run."""
    candidate_figures: Compared | None = None
    """What routers counted of the candidate."""
    stable_figures: Compared | None = None
    """What routers counted of the stable version in the same time."""
    comparisons: list[Comparing] = Field([])
    """The guard's comparisons of the two."""
    routers: str = ""
    """Ready routers, of those wanted."""
    router_replicas: int = 0
    """Number of routers, for `kubectl scale` and autoscalers."""
    router_selector: str = ""
    """Labels that select the routers."""
    conditions: list[Condition] = Field([])
    """Available, Progressing and RolledBack, with reasons and messages."""
