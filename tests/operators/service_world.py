"""A model of Kubernetes for the AuctionService reconciler: one service, its policy servers, routers and readers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from mechanism.canary.cohorts import Evidence, Tally, evidence
from mechanism.canary.latency import bucket_of
from mechanism.weights import served_version
from operators.auctionservice.meter import VersionReport
from operators.auctionservice.observe import (
    DIGEST_LABEL,
    ROUTES_ANNOTATION,
    Canary,
    Desired,
    Observed,
    ObservedRouter,
    OwnedObject,
    Servers,
    canary_of,
)
from operators.auctionservice.reconcile import reconcile
from operators.auctionservice.versions import served
from operators.reconciliation import Annotate, Apply, Delete, Reconciliation
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus
from operators.resources.base import Manifest

START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def version_of(name: str) -> str:
    """Return the served version of a name in the route file."""
    weights, _, revision = name.partition("+")
    return served_version(digest(weights), revision)


def model(name: str) -> dict[str, str]:
    return {"name": name, "digest": digest(name)}


def spec(name: str = "v1", **changes: Any) -> dict[str, Any]:
    """Return a specification with changes by dotted path (`rollout__maxWeight=5`)."""
    result: dict[str, Any] = {
        "model": model(name),
        "router": {
            "image": "llm-auction:0.1.0",
            "database": {"secretKeyRef": {"name": "auction", "key": "database"}},
            "secret": {"secretKeyRef": {"name": "auction", "key": "secret"}},
        },
        "policy": {
            "image": "triton:26.10",
            "source": {"repository": "/models"},
            "volumes": [{"name": "store", "mountPath": "/models", "persistentVolumeClaim": {"claimName": "models"}}],
        },
        "rollout": {
            "steps": [{"weight": 10, "pauseSeconds": 60}, {"weight": 50, "pauseSeconds": 60}],
            "guards": {"minAnswers": 100},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = result
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return result


def counts(
    answers: int,
    failed: int = 0,
    slow: int = 0,
    clicks: int | None = None,
    bid: int = 500_000,
    shown: int | None = None,
) -> Tally:
    """Return counts with `failed` failed answers, `slow` answers of 2 s and the others of 0.2 s; one ad each."""
    clicks = answers // 4 if clicks is None else clicks
    return Tally(
        answers=answers,
        failed=failed,
        shown=answers if shown is None else shown,
        clicks=clicks,
        priced=answers,
        revenue=clicks * bid,
        revenue_squares=clicks * float(bid) ** 2,
        seconds={bucket_of(0.2): answers - slow, bucket_of(2.0): slow},
    )


@dataclass
class World:
    """One service, its objects and a clock.

    Servers of the versions in `ready` are ready; `wrong` versions have other weights; routers read the route file in
    `sync()`, those in `silent` serve no metrics. Versions go by their names in the route file, objects by their `keys`.
    """

    spec: dict[str, Any]
    status: AuctionServiceStatus = field(default_factory=AuctionServiceStatus)
    now: datetime = START
    generation: int = 1
    ready: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    followed: list[int] = field(default_factory=lambda: [0, 0])
    files: dict[int, list[tuple[str, str, int]]] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    counted: dict[str, Tally] = field(default_factory=dict)
    canary: Canary | None = None
    events: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    keys: dict[str, str] = field(default_factory=dict)
    room: int = 1000
    outdated: dict[str, int] = field(default_factory=dict)
    placed: dict[str, int] = field(default_factory=dict)
    objects: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    annotated: dict[str, str] = field(default_factory=dict)
    autoscaled: bool = False

    def desired(self) -> Desired:
        parsed = AuctionServiceSpec.model_validate(self.spec)
        return Desired("ads", "shop", "u-1", self.generation, START, parsed, self.status)

    def observed(self) -> Observed:
        by_readiness = sorted(self.running, key=lambda name: (self.servers(name).ready, name))
        policies = {self.keys[name]: self.servers(name) for name in by_readiness}
        owned = tuple(
            OwnedObject(item["apiVersion"], kind, name, f"u-{name}", item)
            for (kind, name), item in self.objects.items()
        )
        routers = tuple(self.router(i) for i in (0, 1))
        wanted = self.objects.get(("Deployment", "ads-router"), {}).get("spec", {}).get("replicas", 1)
        return Observed(owned, policies, Servers(wanted, 2), self.autoscaled, routers, self.evidence())

    def servers(self, name: str) -> Servers:
        """Return the policy servers of a version: those with room on a node, and the others."""
        wanted, placed = self.replicas(name), self.placed.get(name, 0)
        ready = placed if name in self.ready else 0
        return Servers(wanted, ready, unschedulable=wanted - placed, outdated=self.outdated.get(name, 0))

    def replicas(self, name: str) -> int:
        """Return the number of servers that the operator wants of a version."""
        return int(self.deployment(name)["spec"]["replicas"])

    def deployment(self, name: str) -> Manifest:
        """Return the Deployment of a version's servers."""
        return self.objects["Deployment", f"ads-policy-{self.keys[name]}"]

    def schedule(self) -> None:
        """Place pods on the nodes, which have room for `room`; a pod that runs stays where it is."""
        self.placed = {name: min(self.placed.get(name, 0), self.replicas(name)) for name in self.running}
        for name in sorted(self.running):
            free = self.room - sum(self.placed.values())
            self.placed[name] += min(free, self.replicas(name) - self.placed[name])

    def evidence(self) -> Evidence | None:
        """Return what was counted as one ripe cohort, if it is the current canary's."""
        canary = canary_of(self.status)
        if canary is None or canary != self.canary or not self.counted:
            return None
        by_version = {version_of(name): {0: tally} for name, tally in self.counted.items()}
        new, old = (by_version.get(version, {}) for version in canary.versions)
        return evidence(new, old, self.now.timestamp(), 0.0)

    def router(self, number: int) -> ObservedRouter:
        annotated = self.annotated.get(f"ads-router-{number}", "")
        if number in self.silent:
            return ObservedRouter(f"ads-router-{number}", True, annotated=annotated)
        generation = self.followed[number]
        versions = {}
        for name, weights, weight in self.files.get(generation, []):
            good = name in self.ready and name not in self.wrong
            versions[name, served_version(weights, name.partition("+")[2])] = VersionReport(
                float(weight) if good else 0.0, good
            )
        answering = any(report.ready and report.share for report in versions.values())
        return ObservedRouter(f"ads-router-{number}", answering, generation, versions, annotated=annotated)

    def step(self, seconds: float = 0) -> Reconciliation[AuctionServiceStatus]:
        """Let time pass, then run one reconcile pass."""
        self.now += timedelta(seconds=seconds)
        outcome = reconcile(self.observed(), self.desired(), self.now)
        self.status = outcome.status
        self.files[self.status.routes_generation] = [(t.name, t.digest, t.weight) for t in self.status.traffic]
        self.events += [event.reason for event in outcome.events]
        self.warnings += [event.reason for event in outcome.events if event.type == "Warning"]
        for action in outcome.actions:
            match action:
                case Apply(manifest):
                    self.objects[manifest["kind"], manifest["metadata"]["name"]] = manifest
                case Delete(_, kind, name):
                    del self.objects[kind, name]
                case Annotate(name, _, annotations):
                    self.annotated[name] = annotations[ROUTES_ANNOTATION]
        labels = [item["metadata"]["labels"] for (kind, _), item in self.objects.items() if kind == "Deployment"]
        self.keys |= {one.route: one.key for one in served(self.status)}
        self.running = {one.route for one in served(self.status)}
        assert {self.keys[name] for name in self.running} == {
            one[DIGEST_LABEL] for one in labels if DIGEST_LABEL in one
        }
        self.schedule()
        if canary_of(self.status) != self.canary:
            self.canary, self.counted = canary_of(self.status), {}
        return outcome

    def sync(self) -> None:
        """Let every router read the newest route file."""
        self.followed = [self.status.routes_generation] * 2

    def settle(self, *names: str, passes: int = 4) -> None:
        """Make the servers of these versions ready, then alternate reconcile passes and `sync()`."""
        self.ready |= set(names)
        for _ in range(passes):
            self.step(1)
            self.sync()

    def weights(self) -> dict[str, int]:
        return {one.name: one.weight for one in self.status.traffic}

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(one for one in self.status.conditions if one.type == kind)
        return found.status, found.reason

    def message(self, kind: str) -> str:
        return next(one.message for one in self.status.conditions if one.type == kind)

    def request(self, name: str, **changes: Any) -> None:
        """Change `spec.model`, and other fields by dotted path."""
        self.spec = self.spec | {"model": model(name)}
        self.generation += 1
        for path, value in changes.items():
            section, _, key = path.partition("__")
            self.spec = self.spec | {section: {**self.spec[section], key: value}}

    @property
    def candidate(self) -> str:
        """The name of the candidate in the route file."""
        assert self.status.candidate is not None
        return self.status.candidate.route

    def change(self, **changes: Any) -> None:
        """Change other fields than `spec.model`, by dotted path."""
        self.request(self.spec["model"]["name"], **changes)

    def count(self, **by_name: Tally) -> None:
        """Set what the routers have counted since the canary began."""
        self.counted = {name.replace("_", "-"): one for name, one in by_name.items()}

    def count_equal(self, answers: int = 20_000) -> None:
        """Let both versions answer equally well."""
        stable, candidate = self.status.stable, self.status.candidate
        assert stable is not None
        assert candidate is not None
        self.counted = {stable.route: counts(answers), candidate.route: counts(answers)}


def serving(name: str = "v1", room: int = 1000, **changes: Any) -> World:
    """Return a world in which a first version serves."""
    world = World(spec(name, **changes), room=room)
    world.settle(name)
    assert world.status.phase == "Serving"
    return world


def canary(**changes: Any) -> World:
    """Return a world in which v1 serves and v2 has its first share."""
    world = serving(**changes)
    world.request("v2")
    world.settle("v2")
    return world


BROKEN = {
    "ErrorRate": counts(1_500, failed=150),
    "Latency": counts(1_500, slow=300),
    "Revenue": counts(1_500, bid=200_000),
    "ClickRate": counts(1_500, clicks=100, bid=1_875_000),
    "AdLoad": counts(1_500, shown=3_000, clicks=750, bid=250_000),
}
"""Counts of a candidate that break the guard of this reason, beside 15,000 answers of the stable version."""
