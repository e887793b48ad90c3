"""Reads what the reconciler of AuctionService needs: the service, its children, and what each router says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from operators.actions import Outcome, Refusal
from operators.auctionservice.manifests import DIGEST_LABEL, METRICS_PORT, PART_LABEL, POLICY, ROUTER, SERVICE_LABEL
from operators.auctionservice.meter import Meter, Read, Scrape, read_all, read_metrics
from operators.auctionservice.observed import Child, Desired, Observed, SeenRouter, Servers, window
from operators.auctionservice.reconcile import reconcile
from operators.controller import Kind
from operators.desired import desired_state
from operators.kube import KubeApi
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus

LONGEST_WORDS = 500
STARTING = ("ContainerCreating", "PodInitializing")
CHILDREN = (
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("policy/v1", "PodDisruptionBudget"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
)


@dataclass(frozen=True)
class Sight:
    """Where the children of a service and the figures of its routers are seen."""

    api: KubeApi
    read: Read = read_metrics
    meter: Meter = field(default_factory=Meter)

    def decide(self, desired: Desired, refused: Refusal | None, now: datetime) -> Outcome[AuctionServiceStatus]:
        """One round of the reconciler on what is there now."""
        if desired.deleting:
            self.meter.forget(desired.uid)
            return Outcome(desired.status)
        return reconcile(self.observe(desired, refused), desired, now)

    def observe(self, desired: Desired, refused: Refusal | None) -> Observed:
        """The children of a service, and its routers by their own figures."""
        labels = f"{SERVICE_LABEL}={desired.name}"
        children: list[Child] = []
        policies: dict[str, Servers] = {}
        router = Servers(0, 0)
        found_pods = self.api.list("v1", "Pod", desired.namespace, labels)
        for version, kind in CHILDREN:
            for item in self.api.list(version, kind, desired.namespace, labels):
                meta = item["metadata"]
                if not any(owner.get("uid") == desired.uid for owner in meta.get("ownerReferences") or ()):
                    continue
                children.append(Child(version, kind, meta["name"], meta["uid"]))
                if kind == "Deployment" and meta["labels"].get(PART_LABEL) == POLICY:
                    of = meta["labels"][DIGEST_LABEL]
                    policies[of] = _servers(item, [p for p in found_pods if _label(p, DIGEST_LABEL) == of])
                elif kind == "Deployment":
                    router = _servers(item, [p for p in found_pods if _label(p, PART_LABEL) == ROUTER])
        pods = [
            pod
            for pod in found_pods
            if _label(pod, PART_LABEL) == ROUTER and (pod.get("status") or {}).get("phase") == "Running"
        ]
        addresses = {pod["metadata"]["uid"]: _address(pod) for pod in pods if (pod["status"].get("podIP"))}
        found = read_all(addresses.values(), self.read)
        scrapes = {uid: found[address] for uid, address in addresses.items() if address in found}
        counts = self.meter.add(desired.uid, window(desired.status), scrapes)
        routers = tuple(_router(pod, scrapes.get(pod["metadata"]["uid"])) for pod in pods)
        return Observed(tuple(children), policies, router, routers, counts, refused)


def _label(pod: Mapping[str, Any], name: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(name, ""))


def _servers(item: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> Servers:
    """Pods of the newest template count alone: others may have other weights or settings."""
    status = item.get("status") or {}
    current = int(status.get("observedGeneration") or 0) >= int(item["metadata"].get("generation") or 0)
    ready = int(status.get("readyReplicas") or 0)
    troubles = filter(None, map(trouble, pods))
    return Servers(int((item.get("spec") or {}).get("replicas", 1)), ready if current else 0, next(troubles, ""))


def trouble(pod: Mapping[str, Any]) -> str:
    """What keeps a pod from being ready, if it is more than that it starts: no node for it, an image that cannot be
    had, a container that ended, with the last line of its log."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return f"pod {name}: {one.get('message') or one.get('reason')}"
    for of in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (of.get("state") or {}).get("waiting") or {}
        ended = (of.get("state") or {}).get("terminated") or (of.get("lastState") or {}).get("terminated") or {}
        if of.get("ready") or not (ended.get("exitCode") or waiting.get("reason") not in (None, *STARTING)):
            continue
        if not ended.get("exitCode"):
            return f"pod {name}, {of['name']}: {waiting['reason']} {waiting.get('message') or ''}".rstrip()
        *_, last = (ended.get("message") or ended.get("reason") or "").strip().splitlines() or [""]
        return f"pod {name}, {of['name']} ended with {ended['exitCode']}: {last[:LONGEST_WORDS]}"
    return ""


def _address(pod: Mapping[str, Any]) -> str:
    ip = str(pod["status"]["podIP"])
    return f"[{ip}]:{METRICS_PORT}" if ":" in ip else f"{ip}:{METRICS_PORT}"


def _router(pod: Mapping[str, Any], scrape: Scrape | None) -> SeenRouter:
    meta, conditions = pod["metadata"], (pod.get("status") or {}).get("conditions") or ()
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    ready = ready and "deletionTimestamp" not in meta
    if scrape is None:
        where = _address(pod) if pod["status"].get("podIP") else ""
        return SeenRouter(meta["name"], ready, uid=meta["uid"], address=where)
    return SeenRouter(meta["name"], ready, scrape.generation, scrape.refusing, scrape.versions, meta["uid"])


def desired_of(item: Mapping[str, Any]) -> Desired:
    """A service out of the API's object."""
    return desired_state(item, AuctionServiceSpec, AuctionServiceStatus)


def auctionservice_kind(sight: Sight) -> Kind[Desired, AuctionServiceStatus]:
    """The kind, for a controller."""
    return Kind("AuctionService", desired_of, sight.decide, lambda status: status.phase)
