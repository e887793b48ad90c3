"""A service as the tests want it, and a small world in which its children behave: servers, routers, readers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from mechanism.weights import model_version
from operators.actions import Outcome
from operators.auctionservice.guards import Counts
from operators.auctionservice.manifests import short
from operators.auctionservice.observed import Desired, Observed, SeenRouter, Servers, Verdict, window
from operators.auctionservice.reconcile import reconcile
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus

START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
BOUNDS = (0.1, 0.5, 1.0, float("inf"))


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def model(name: str) -> dict[str, str]:
    return {"name": name, "digest": digest(name)}


def spec(name: str = "v1", **changes: Any) -> dict[str, Any]:
    """The specification with changes by dotted path (`rollout__maxWeight=5`)."""
    made: dict[str, Any] = {
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
        at = made
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return made


def counts(answers: int, failed: int = 0, slow: int = 0, clicks: int | None = None, bid: int = 500_000) -> Counts:
    """Answers of which so many failed, and so many took more than a second; half of them quick."""
    clicks = answers // 4 if clicks is None else clicks
    quick = answers - slow
    buckets = dict(zip(BOUNDS, (quick // 2, quick, quick, answers), strict=True))
    return Counts(answers, failed, answers, clicks, clicks * bid, buckets)


@dataclass
class World:
    """One service, its children and a clock. Servers are ready once they are in `ready`; routers follow on `sync()`."""

    spec: dict[str, Any]
    status: AuctionServiceStatus = field(default_factory=AuctionServiceStatus)
    now: datetime = START
    generation: int = 1
    ready: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)
    followed: list[int] = field(default_factory=lambda: [0, 0])
    files: dict[int, list[tuple[str, str, int]]] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    counted: dict[str, Counts] = field(default_factory=dict)
    window: str = ""
    events: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)

    def desired(self) -> Desired:
        made = AuctionServiceSpec.model_validate(self.spec)
        return Desired("ads", "shop", "u-1", self.generation, START, made, self.status)

    def observed(self) -> Observed:
        policies = {short(digest(name)): Servers(1, int(name in self.ready)) for name in self.running}
        counted = self.counted if window(self.status) == self.window else {}
        told = {model_version(digest(name)): one for name, one in counted.items()}
        return Observed((), policies, Servers(2, 2), tuple(self.router(i) for i in (0, 1)), told)

    def router(self, number: int) -> SeenRouter:
        if number in self.silent:
            return SeenRouter(f"ads-router-{number}", True)
        generation = self.followed[number]
        versions = {}
        for name, of, weight in self.files.get(generation, []):
            good = name in self.ready and name not in self.wrong
            versions[name, model_version(of)] = Verdict(float(weight) if good else 0.0, good)
        answering = any(verdict.ready and verdict.share for verdict in versions.values())
        return SeenRouter(f"ads-router-{number}", answering, generation, False, versions)

    def step(self, seconds: float = 0) -> Outcome[AuctionServiceStatus]:
        """Some time passes, then the operator looks."""
        self.now += timedelta(seconds=seconds)
        outcome = reconcile(self.observed(), self.desired(), self.now)
        self.status = outcome.status
        self.files[self.status.routes_generation] = [(t.name, t.digest, t.weight) for t in self.status.traffic]
        self.events += [say.reason for say in outcome.events]
        self.running = {
            action.manifest["metadata"]["labels"]["llm-auction.io/version"]
            for action in outcome.actions
            if hasattr(action, "manifest")
            and action.manifest["kind"] == "Deployment"
            and "llm-auction.io/version" in action.manifest["metadata"]["labels"]
        }
        if window(self.status) != self.window:
            self.window, self.counted = window(self.status), {}
        return outcome

    def sync(self) -> None:
        """Every router has read the newest route file."""
        self.followed = [self.status.routes_generation] * 2

    def settle(self, *names: str, looks: int = 4) -> None:
        """Servers of these versions get ready, routers follow, the operator looks; several times."""
        self.ready |= set(names)
        for _ in range(looks):
            self.step(1)
            self.sync()

    def weights(self) -> dict[str, int]:
        return {one.name: one.weight for one in self.status.traffic}

    def ask(self, name: str, **changes: Any) -> None:
        """The owner asks for another version."""
        self.spec = self.spec | {"model": model(name)}
        self.generation += 1
        for path, value in changes.items():
            section, _, key = path.partition("__")
            self.spec = self.spec | {section: {**self.spec[section], key: value}}

    def count(self, **by_name: Counts) -> None:
        """Readers came; sums since the step began."""
        self.counted = {name.replace("_", "-"): one for name, one in by_name.items()}


def healthy(world: World, answers: int = 500) -> None:
    """Both versions answer equally well."""
    stable, candidate = world.status.stable, world.status.candidate
    assert stable is not None
    assert candidate is not None
    world.counted = {stable.name: counts(answers), candidate.name: counts(answers)}
