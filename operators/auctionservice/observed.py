"""What the operator sees of a service: its children, its policy servers, and what each router says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from operators.actions import Refusal
from operators.auctionservice.guards import Counts
from operators.desired import DesiredState
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus

Desired = DesiredState[AuctionServiceSpec, AuctionServiceStatus]


@dataclass(frozen=True, slots=True)
class Child:
    """An object that belongs to the service."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Servers:
    """A deployment's pods: how many are wanted, how many are ready, and what keeps one of the others from it."""

    wanted: int
    ready: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a router says of a version: the share that it gives it, per cent, and whether it may have traffic."""

    share: float
    ready: bool


@dataclass(frozen=True, slots=True)
class SeenRouter:
    """A router's pod. `generation` is that of the route file it follows, None where its figures cannot be read at
    `address`; `versions`: its verdicts by (version, model version)."""

    pod: str
    ready: bool
    generation: int | None = None
    refusing: bool = False
    versions: Mapping[tuple[str, str], Verdict] = field(default_factory=dict)
    uid: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """`policies`: deployments by digest prefix, as `children.short` cuts it. `counts`: by model version, since the
    candidate's step began (`window` names it). `refused`: what the API server last said against a child, if it did."""

    children: tuple[Child, ...] = ()
    policies: Mapping[str, Servers] = field(default_factory=dict)
    router: Servers = Servers(0, 0)
    routers: tuple[SeenRouter, ...] = ()
    counts: Mapping[str, Counts] = field(default_factory=dict)
    refused: Refusal | None = None


def window(status: AuctionServiceStatus) -> str:
    """Names the time over which the candidate is compared: it ends where its share changes."""
    return "" if status.candidate is None else f"{status.candidate.digest}/{status.step}/{status.weight}"
