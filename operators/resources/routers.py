"""The routers of an AuctionService, and the pod settings that they share with its policy servers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from operators.resources.base import ApiModel, Name, checked, rule
from operators.resources.pods import Image, KeyOf, PodFields, PodSecurity, Resources

Share = Annotated[float, Field(ge=0, le=1)]
Replicas = Annotated[int, Field(ge=1, le=1000)]
Network = Annotated[str, Field(pattern="^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$", max_length=49)]
HighestBid = Annotated[str, Field(pattern="^[A-Z]{3}=[0-9]{1,7}([.][0-9]{1,6})?$", max_length=18)]

VOLUMES = (
    rule("self.volumes.all(v, self.volumes.exists_one(w, w.name == v.name))", "volumes must have different names"),
    rule(
        "self.volumes.all(v, !v.name.startsWith('llm-auction-') && !(v.mountPath in ['/tmp', '/dev/shm']) &&"
        " !v.mountPath.startsWith('/var/lib/llm-auction') && !v.mountPath.startsWith('/etc/llm-auction'))",
        "volumes must not be named llm-auction-* or mounted at /tmp, /dev/shm, /var/lib/llm-auction, /etc/llm-auction",
    ),
)


class ServerSecurity(PodSecurity):
    """User and groups of the containers, which get no capabilities, no further privileges and a read-only root."""

    run_as_non_root: bool = True
    """Refuse to start as root."""


class Pods(PodFields):
    """Pod settings of routers and policy servers."""

    resources: Resources = Resources()
    """CPU and memory of each pod."""
    service_account_name: Name | None = None
    """Service account of the pods. Its token is never mounted."""
    pod_security: ServerSecurity = ServerSecurity()
    """User and groups of the containers."""


class Autoscaling(ApiModel):
    """A HorizontalPodAutoscaler on the routers' CPU."""

    model_config = checked(rule("self.minReplicas <= self.maxReplicas", "minReplicas must not exceed maxReplicas"))
    min_replicas: Replicas = 2
    """Smallest number of routers."""
    max_replicas: Replicas = 10
    """Largest number of routers."""
    target_cpu_percent: Annotated[int, Field(ge=1, le=1000)] = 60
    """Target of the average CPU, in per cent of what the routers request."""
    scale_down_seconds: Annotated[int, Field(ge=0, le=3600)] = 300
    """Seconds for which fewer routers must suffice before their number is reduced."""


class SecretKey(ApiModel):
    """A value in a Secret."""

    secret_key_ref: KeyOf
    """Name and key of the Secret."""


class Router(Pods):
    """The routers, which receive users' questions and clicks."""

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
    """Number of routers; 2 without it and without autoscaling."""
    autoscaling: Autoscaling | None = None
    """Number of routers by load."""
    max_unavailable: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of routers that may be missing while nodes are drained (PodDisruptionBudget)."""
    model_name: Annotated[str, Field(pattern="^[A-Za-z0-9][-A-Za-z0-9._]*$", max_length=63)] = "llm-auction"
    """Name of the model in the API, the same for all versions."""
    database: SecretKey
    """URL of the PostgreSQL database."""
    secret: SecretKey
    """At least 32 random characters, from which the keys for click links and API keys are derived."""
    other_secrets: SecretKey | None = None
    """Secrets that verify beside `secret` and sign nothing, separated by white space: the next one before a rotation,
    the former one after it."""
    public_url: Annotated[str, Field(pattern="^https?://[^ ]+$", max_length=512)] | None = None
    """Base URL of click links; by default the address to which the question was sent."""
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    """Currency of questions that do not name one."""
    candidates: Annotated[int, Field(ge=1, le=100)] = 20
    """Number of ads in a prompt."""
    max_ads: Annotated[int, Field(ge=1, le=10)] = 3
    """Largest number of sponsored links in an answer."""
    in_flight: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Largest number of answers in progress in a router; beyond it, it responds with 503."""
    anonymous: bool = False
    """Whether callers without an API key may ask questions."""
    address_per_minute: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Requests a minute of one address without an API key, by router; 0 is no limit. Behind an ingress all clients have
    its address, unless `trustedProxies` names it."""
    key_per_minute: Annotated[int, Field(ge=0, le=10_000_000)] = 6_000
    """Requests a minute of one API key, by router; 0 is no limit."""
    key_per_day: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Requests a day of one API key, by router; 0 is no limit."""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000
    """Largest number of open connections of a router."""
    max_characters: Annotated[int, Field(ge=1, le=1_000_000)] = 32_000
    """Largest length of a conversation, its system prompt included, in characters."""
    head_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    """Seconds within which the head of a request must arrive."""
    body_seconds: Annotated[int, Field(ge=1, le=3600)] = 30
    """Seconds within which the body of a request must arrive."""
    stale_keys_seconds: Annotated[int, Field(ge=0, le=86_400)] = 600
    """Seconds for which API keys that were valid are accepted while the database is away."""
    trusted_proxies: list[Network] = Field([], max_length=64)
    """Networks (CIDR) of the load balancers that name the reader's address; no other caller is believed."""
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    """The header that they write."""
    highest_bids: list[HighestBid] = Field([], max_length=100)
    """Highest bids by currency, such as USD=2.50, shown to the policy as 100 points; by default about a dollar."""
    block_advertisers: Literal["never", "same-category"] = "same-category"
    """Which advertisers a campaign may keep out of its answers: none, or rivals in its own category."""
    stop_ads_after_seconds: Annotated[int, Field(ge=0, le=86_400)] = 900
    """Seconds without the ledger after which answers have no ads; 0 is never."""
    repeat_fade: Share = 0.7
    """Factor on the shown bid of an ad for each time that a conversation has shown it without a click; 1 is off."""
    drain_seconds: Annotated[int, Field(ge=1, le=600)] = 30
    """Seconds for answers in progress when a router is shut down."""
