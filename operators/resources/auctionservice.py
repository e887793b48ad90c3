"""AuctionService: routers, policy servers for each policy version, and how a new version takes over the traffic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from operators.resources.base import (
    ApiModel,
    Condition,
    Moment,
    Name,
    Quantity,
    checked,
    checked_value,
    rule,
)
from operators.resources.pods import Image, KeyOf, MountPath, NamedObject, PodFields, PodSecurity, Resources

Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(gt=0, le=100)]
Seconds = Annotated[int, Field(ge=0, le=2_592_000)]
Replicas = Annotated[int, Field(ge=1, le=1000)]
Percent = Annotated[int, Field(ge=1, le=100)]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class Model(ApiModel):
    """A version of the policy."""

    name: Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
    """Name of the version; with `policy.registry` that of the registered model."""
    digest: Annotated[
        str,
        Field(pattern="^[0-9a-f]{64}$"),
        checked_value(
            128,
            rule("self.matches('^[0-9a-f]{64}$')", "give 64 hex digits, as `llm-auction triton build` prints them"),
        ),
    ]
    """sha256 of its weights, as `llm-auction triton build` prints it. No version with other weights gets traffic."""


VOLUMES = (
    rule("self.volumes.all(v, self.volumes.exists_one(w, w.name == v.name))", "volumes must have different names"),
    rule(
        "self.volumes.all(v, !v.name.startsWith('llm-auction-') && !(v.mountPath in ['/tmp', '/dev/shm']) &&"
        " !v.mountPath.startsWith('/var/lib/llm-auction') && !v.mountPath.startsWith('/etc/llm-auction'))",
        "volumes must not be named llm-auction-... or lie at /tmp, /dev/shm, /var/lib/llm-auction or /etc/llm-auction",
    ),
)


class ServerSecurity(PodSecurity):
    """As which user the containers run. They never get capabilities, more privileges or a root that can be written."""

    run_as_non_root: bool = True
    """Refuse to start as root."""


class Pods(PodFields):
    """What routers and policy servers say of their pods."""

    resources: Resources = Resources()
    """CPU and memory of each pod."""
    service_account_name: Name | None = None
    """Service account. Its token is never mounted."""
    pod_security: ServerSecurity = ServerSecurity()
    """As which user the containers run."""


class Autoscaling(ApiModel):
    """A HorizontalPodAutoscaler over the routers' CPU."""

    model_config = checked(rule("self.minReplicas <= self.maxReplicas", "minReplicas must not exceed maxReplicas"))
    min_replicas: Replicas = 2
    """Fewest routers."""
    max_replicas: Replicas = 10
    """Most routers."""
    target_cpu_percent: Annotated[int, Field(ge=1, le=1000)] = 60
    """CPU to hold on average, in per cent of what the routers request."""
    scale_down_seconds: Annotated[int, Field(ge=0, le=3600)] = 300
    """For how long fewer routers must have been enough before there are fewer."""


class SecretKey(ApiModel):
    """A value that a Secret keeps."""

    secret_key_ref: KeyOf
    """The Secret's key."""


class Router(Pods):
    """The routers: what users' questions and clicks come to."""

    model_config = checked(
        *VOLUMES,
        rule("!(has(self.replicas) && has(self.autoscaling))", "give replicas or autoscaling, not both"),
        rule(
            "!has(self.autoscaling) || (has(self.resources.requests) && 'cpu' in self.resources.requests)",
            "autoscaling needs resources.requests.cpu: the target is in per cent of it",
        ),
    )
    image: Image
    """Container image with llm-auction and its extras `serve` and `triton`."""
    replicas: Replicas | None = None
    """How many routers; without it and without autoscaling 2."""
    autoscaling: Autoscaling | None = None
    """How many routers, by load."""
    max_unavailable: Annotated[int, Field(ge=1, le=1000)] = 1
    """How many routers may be missing while nodes are drained (PodDisruptionBudget)."""
    model_name: Annotated[str, Field(pattern="^[A-Za-z0-9][-A-Za-z0-9._]*$", max_length=63)] = "llm-auction"
    """Name of the model in the API, whichever version answers."""
    database: SecretKey
    """URL of the PostgreSQL database."""
    secret: SecretKey
    """At least 32 random characters, from which the keys of click links and API keys are derived."""
    public_url: Annotated[str, Field(pattern="^https?://[^ ]+$", max_length=512)] | None = None
    """What click links begin with; none: the address that a question came to."""
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    """Currency of questions that name none."""
    candidates: Annotated[int, Field(ge=1, le=100)] = 20
    """Ads in one prompt."""
    max_ads: Annotated[int, Field(ge=1, le=10)] = 3
    """Most sponsored links in one answer."""
    in_flight: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Answers that one router has under way before it answers 503."""
    anonymous: bool = False
    """Whether callers without an API key may chat."""
    drain_seconds: Annotated[int, Field(ge=1, le=600)] = 30
    """Seconds that answers under way get when a router goes."""


class Source(ApiModel):
    """Where policy servers find models: one of the two. A folder lies below the mountPath of a volume."""

    model_config = checked(rule("has(self.repository) != has(self.registry)", "give one of repository and registry"))
    repository: MountPath | None = None
    """Folder of a Triton model repository, as `llm-auction triton build` makes it."""
    registry: Annotated[str, Field(pattern=r"^(/|[a-z][a-z0-9+.-]*://)[^:]*[^:/]$", max_length=1024)] | None = None
    """Folder or URL (s3://bucket/prefix) that holds `models/`: an IRPOJob's storage.url. Each pod builds its repository
    from it; what an object store asks for comes by env and envFrom."""


class Policy(Pods):
    """The policy servers: Triton Inference Server, a deployment for each version."""

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
    """Container image with tritonserver and the packages that the policy needs."""
    source: Source
    """Where the models are."""
    replicas: Replicas = 1
    """Policy servers of each version that has traffic."""
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs of each pod."""
    gpu_resource: Name = "nvidia.com/gpu"
    """Name of the resource that counts GPUs."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, over which Triton talks to its Python processes; it counts as the pod's memory."""
    start_seconds: Annotated[int, Field(ge=10, le=7200)] = 600
    """How long a server may take to load its model before it is started again."""


class CanaryStep(ApiModel):
    """A share of the traffic and how long it stays there."""

    weight: Percent
    """Per cent of the questions that the new version answers."""
    pause_seconds: Seconds = 300
    """At least so long, and until enough answers have been compared."""


class Guards(ApiModel):
    """What must hold while a new version has traffic. Rates are compared with the stable version's over the same time,
    and count as broken only where chance does not explain them (one-sided, at `confidence`)."""

    min_answers: Annotated[int, Field(ge=0, le=10_000_000)] = 200
    """Answers of the new version in a step before it goes on."""
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.99
    """How sure it must be that a guard is broken: 0.99 is one false alarm in a hundred looks at an equal version."""
    max_error_rate: Share = 0.02
    """Answers that failed, of all."""
    max_error_rise: Share = 0.01
    """The same, above the stable version's."""
    max_latency_ratio: Ratio = 1.25
    """95th percentile of an answer's seconds, of the stable version's."""
    min_revenue_ratio: Ratio = 0.9
    """Clicked bids per answer, of the stable version's."""
    min_click_rate_ratio: Ratio = 0.8
    """Experience: clicks per shown ad, of the stable version's."""
    max_ad_load_ratio: Ratio = 1.25
    """Experience: shown ads per answer, of the stable version's."""


class Rollout(ApiModel):
    """How a new version takes over."""

    model_config = checked(
        rule(
            "self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1) &&"
            " self.steps.map(s, s.weight).isSorted()",
            "weights of steps must rise",
        )
    )
    steps: list[CanaryStep] = Field([CanaryStep(weight=5), CanaryStep(weight=25), CanaryStep(weight=50)], max_length=16)
    """Shares before the whole; none: all of it as soon as the version is ready and its weights are verified."""
    guards: Guards = Guards()
    """What must hold meanwhile; else the version is rolled back."""
    max_weight: Annotated[int, Field(ge=0, le=100)] = 100
    """Hold: a new version gets no larger share than this until it is raised. 0: it is loaded and verified only."""
    paused: bool = False
    """No further step is taken; guards go on."""
    attempt: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Raise it to try a version again that was rolled back."""
    ready_seconds: Annotated[int, Field(ge=10, le=86_400)] = 1200
    """How long a new version may take until it is ready and verified, before it is given up."""
    unready_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """For how long a version with a share of the traffic may be unready before it is rolled back."""
    keep_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """How long the servers of the version before stay after a promotion, for a quick way back."""


class AuctionServiceSpec(ApiModel):
    """What to serve, with which routers and policy servers, and how a new version takes over."""

    model: Model
    """The version to serve. A new one takes over step by step."""
    router: Router
    """The routers."""
    policy: Policy
    """The policy servers."""
    rollout: Rollout = Rollout()
    """How a new version takes over."""
    image_pull_policy: PullPolicy = "IfNotPresent"
    """When images are pulled."""
    image_pull_secrets: list[NamedObject] = Field([], max_length=16)
    """Secrets for the images' registry."""


class Traffic(ApiModel):
    """A version's part."""

    name: str
    """The version."""
    digest: str
    """sha256 of its weights."""
    weight: int
    """Per cent of the questions that routers are told to send to it."""
    ready: bool
    """Whether its servers are ready and every router has verified its weights."""
    reason: str = ""
    """Why not."""


class Rejected(ApiModel):
    """A version that was given up."""

    name: str
    """The version."""
    digest: str
    """sha256 of its weights."""
    attempt: int
    """`spec.rollout.attempt` at that time."""
    reason: str
    """One word; see docs/operators.md."""
    message: str
    """What was measured, and against what."""
    time: Moment
    """When."""


class Retiring(ApiModel):
    """A version without traffic whose servers still run."""

    name: str
    """The version."""
    digest: str
    """sha256 of its weights."""
    until: Moment
    """When they may go."""


class Compared(ApiModel):
    """What routers counted of a version since the step began."""

    answers: int = 0
    """Answers, failed ones too."""
    error_rate: float = 0
    """Failed answers, of all."""
    p95_seconds: float | None = None
    """95th percentile of an answer's seconds, from the histogram."""
    revenue_micros_per_answer: float = 0
    """Clicked bids per answer."""
    ads_per_answer: float = 0
    """Shown ads per answer."""
    click_rate: float | None = None
    """Clicks per shown ad."""


class AuctionServiceStatus(ApiModel):
    """What the operator has seen and done."""

    observed_generation: int = 0
    """The generation of the service that this status is about."""
    phase: Literal["Pending", "Serving", "Starting", "Canary", "Held", "Paused", "RolledBack"] = "Pending"
    """In one word; the conditions say more."""
    stable: Model | None = None
    """The last good version."""
    candidate: Model | None = None
    """The version that is taking over."""
    step: int = -1
    """The step that the candidate is at, from 0; -1: it has no traffic yet."""
    weight: int = 0
    """The candidate's share, per cent."""
    step_since: Moment | None = None
    """Since when."""
    unready_since: Moment | None = None
    """Since when the candidate is not ready although it has traffic."""
    traffic: list[Traffic] = Field([])
    """Every version in the route file."""
    routes_generation: int = 0
    """Counts the route files; routers report which one they follow."""
    rejected: Rejected | None = None
    """The last version that was given up."""
    retiring: list[Retiring] = Field([])
    """Versions without traffic whose servers still run."""
    candidate_figures: Compared | None = None
    """What routers counted of the candidate in this step."""
    stable_figures: Compared | None = None
    """What they counted of the stable version in the same time."""
    routers: str = ""
    """Routers that are ready, of those wanted."""
    router_replicas: int = 0
    """How many routers there are, for `kubectl scale` and autoscalers."""
    router_selector: str = ""
    """By which labels they are found."""
    conditions: list[Condition] = Field([])
    """Available, Progressing and RolledBack, with reasons and messages."""
