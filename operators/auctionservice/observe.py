"""The observed state of an AuctionService: its objects, its policy servers, and the figures of each router."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mechanism.canary.cohorts import Evidence, minute_of
from mechanism.weights import served_version
from operators.auctionservice.meter import Meter, ReadReport, Report, VersionKey, VersionReport, read_all
from operators.objects import DesiredState, Reader, has_other_manager, owned_by
from operators.reconciliation import Refusal
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus, Served
from operators.resources.base import GROUP, Manifest

Desired = DesiredState[AuctionServiceSpec, AuctionServiceStatus]

SERVICE_LABEL = f"{GROUP}/auctionservice"
PART_LABEL = "app.kubernetes.io/component"
DIGEST_LABEL = f"{GROUP}/digest"
"""Label with the `Served.key` of policy servers: the first digits of their weights' digest, or their revision."""
ROUTES_ANNOTATION = f"{GROUP}/routes"
"""Annotation of a router's pod: generation of the route file that it should follow by now."""
ROUTER, POLICY = "router", "policy"
METRICS_PORT = 9090
LONGEST_OUTPUT = 500
STARTING = ("ContainerCreating", "PodInitializing")
OWNED_KINDS = (
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("policy/v1", "PodDisruptionBudget"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
)


def key_of(version: Served) -> VersionKey:
    """Return the key by which routers report on a version."""
    return version.route, served_version(version.digest, version.revision)


@dataclass(frozen=True, slots=True)
class OwnedObject:
    """An object that belongs to the service; `item`: as the API server returned it."""

    api_version: str
    kind: str
    name: str
    uid: str
    item: Manifest = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Servers:
    """The pods of a Deployment: wanted, ready, without room on a node, and what keeps one from being ready.

    `outdated`: those with the settings before the last change of the specification.
    """

    wanted: int
    ready: int
    trouble: str = ""
    unschedulable: int = 0
    outdated: int = 0


@dataclass(frozen=True, slots=True)
class ObservedRouter:
    """A router's pod.

    `generation` is None if its report at `address` could not be read, or if it follows no route file; `annotated` is
    the generation in its annotation.
    """

    pod: str
    ready: bool
    generation: int | None = None
    versions: Mapping[VersionKey, VersionReport] = field(default_factory=dict)
    uid: str = ""
    address: str = ""
    annotated: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """The objects of a service, its servers, and the API server's last refusal of one of its objects.

    `policies`: Deployments of policy servers by `Served.key`; `autoscaled`: whether an autoscaler owns the number of
    routers; `evidence`: on the candidate, None before it has traffic.
    """

    owned: tuple[OwnedObject, ...] = ()
    policies: Mapping[str, Servers] = field(default_factory=dict)
    router: Servers = Servers(0, 0)
    autoscaled: bool = False
    routers: tuple[ObservedRouter, ...] = ()
    evidence: Evidence | None = None
    refused: Refusal | None = None

    @property
    def active_routers(self) -> list[ObservedRouter]:
        """Routers that follow a route file or may receive traffic."""
        return [router for router in self.routers if router.generation is not None or router.ready]

    def servers_of(self, version: Served) -> Servers:
        """Return the policy servers of a version."""
        return self.policies.get(version.key, Servers(0, 0))


@dataclass(frozen=True, slots=True)
class Canary:
    """The canary under way: its name, the minute in which it began, and both served versions, the new one first."""

    name: str
    begin: int
    versions: tuple[str, str]


def canary_of(status: AuctionServiceStatus) -> Canary | None:
    """Return the canary under way; None while the candidate has no traffic."""
    candidate, stable, since = status.candidate, status.stable, status.canary_since or status.step_since
    if candidate is None or stable is None or since is None or status.step < 0:
        return None
    versions = key_of(candidate)[1], key_of(stable)[1]
    return Canary(f"{candidate.digest}/{candidate.key}/{since.isoformat()}", minute_of(since.timestamp()), versions)


@dataclass(frozen=True)
class Observer:
    """Reads the state of AuctionServices; `read` returns a router's rollout report."""

    read: ReadReport
    meter: Meter = field(default_factory=Meter)
    clock: Callable[[], float] = time.time

    def observe(self, api: Reader, desired: Desired, refused: Refusal | None) -> Observed:
        """Read the objects of a service and the figures of its routers; nothing for one that is being deleted."""
        if desired.deleting:
            self.meter.forget(desired.uid)
            return Observed()
        labels = f"{SERVICE_LABEL}={desired.name}"
        owned: list[OwnedObject] = []
        policies: dict[str, Servers] = {}
        router, autoscaled = Servers(0, 0), False
        pods = api.list("v1", "Pod", desired.namespace, labels)
        for version, kind in OWNED_KINDS:
            for item in api.list(version, kind, desired.namespace, labels):
                if not owned_by(item, desired.uid):
                    continue
                meta = item["metadata"]
                owned.append(OwnedObject(version, kind, meta["name"], meta["uid"], item))
                if kind == "Deployment" and meta["labels"].get(PART_LABEL) == POLICY:
                    digest = meta["labels"][DIGEST_LABEL]
                    policies[digest] = _servers(item, [p for p in pods if _label(p, DIGEST_LABEL) == digest])
                elif kind == "Deployment":
                    router = _servers(item, [p for p in pods if _label(p, PART_LABEL) == ROUTER])
                    autoscaled = has_other_manager(item, "replicas")
        running = [
            pod
            for pod in pods
            if _label(pod, PART_LABEL) == ROUTER and (pod.get("status") or {}).get("phase") == "Running"
        ]
        reports, evidence = self._measure(desired, running)
        routers = tuple(_router(pod, reports.get(pod["metadata"]["uid"])) for pod in running)
        return Observed(tuple(owned), policies, router, autoscaled, routers, evidence, refused)

    def _measure(self, desired: Desired, pods: Iterable[Manifest]) -> tuple[dict[str, Report], Evidence | None]:
        """Return the reports of the routers that could be read, by uid, and the evidence on the candidate."""
        canary, now = canary_of(desired.status), self.clock()
        since = minute_of(now) if canary is None else self.meter.since(desired.uid, canary.name, canary.begin)
        addresses = {pod["metadata"]["uid"]: _address(pod) for pod in pods}
        found = read_all(filter(None, addresses.values()), since, self.read)
        reports = {uid: found[address] for uid, address in addresses.items() if address in found}
        if canary is None:
            return reports, None
        self.meter.add(desired.uid, canary.name, reports.values(), now)
        return reports, self.meter.evidence(desired.uid, canary.versions, canary.begin, now)


def _label(pod: Manifest, name: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(name, ""))


def _servers(deployment: Manifest, pods: Sequence[Manifest]) -> Servers:
    """Count ready pods of the newest template only: older ones may have other weights or settings."""
    status = deployment.get("status") or {}
    current = int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0)
    ready = int(status.get("readyReplicas") or 0)
    wanted = int((deployment.get("spec") or {}).get("replicas", 1))
    waiting = sum(_unscheduled(pod) is not None for pod in pods)
    replicas, updated = int(status.get("replicas") or 0), int(status.get("updatedReplicas") or 0)
    why = next(filter(None, map(trouble, pods)), "")
    return Servers(wanted, ready if current else 0, why, waiting, replicas - updated if current else wanted)


def _unscheduled(pod: Manifest) -> Manifest | None:
    """Return the scheduler's condition of a pod for which no node has room."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == "PodScheduled" and one["status"] == "False"), None)


def trouble(pod: Manifest) -> str:
    """Describe what keeps a pod from being ready; "" for a pod that is ready or just starting.

    That is a pod without a node, an image that cannot be pulled, or a container that ended (with its last log line).
    """
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if (one := _unscheduled(pod)) is not None:
        return f"pod {name}: {one.get('message') or one.get('reason')}"
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state, last_state = container.get("state") or {}, container.get("lastState") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or last_state.get("terminated") or {}
        if container.get("ready") or not (ended.get("exitCode") or waiting.get("reason") not in (None, *STARTING)):
            continue
        if not ended.get("exitCode"):
            return f"pod {name}, {container['name']}: {waiting['reason']} {waiting.get('message') or ''}".rstrip()
        *_, last = (ended.get("message") or ended.get("reason") or "").strip().splitlines() or [""]
        return f"pod {name}, {container['name']} ended with {ended['exitCode']}: {last[:LONGEST_OUTPUT]}"
    return ""


def _address(pod: Manifest) -> str:
    """Return HOST:PORT of a router's metrics, "" before it has an address."""
    ip = str(pod["status"].get("podIP") or "")
    host = f"[{ip}]" if ":" in ip else ip
    return f"{host}:{METRICS_PORT}" if ip else ""


def _router(pod: Manifest, report: Report | None) -> ObservedRouter:
    meta, conditions = pod["metadata"], (pod.get("status") or {}).get("conditions") or ()
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    ready = ready and "deletionTimestamp" not in meta
    report = report or Report()
    annotated = str((meta.get("annotations") or {}).get(ROUTES_ANNOTATION, ""))
    return ObservedRouter(
        meta["name"], ready, report.generation, report.versions, meta["uid"], _address(pod), annotated
    )
