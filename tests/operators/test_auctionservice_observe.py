"""What is observed of a service: why a pod does not become ready, and the routers' evidence on a canary."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mechanism.canary.cohorts import minute_of
from mechanism.weights import model_version
from operators.auctionservice.observe import Observer, trouble
from operators.resources.base import Manifest
from serving.cohorts import CountedAnswer
from serving.metrics import Metrics

from .service_world import START, canary, digest, serving


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "ads-policy-1"}, "status": status}


def container(name: str, **states: Any) -> dict[str, Any]:
    return {"name": name, "ready": False, **states}


STARTS = [
    {},
    {"conditions": [{"type": "PodScheduled", "status": "True"}]},
    {"initContainerStatuses": [container("build", state={"running": {}})]},
    {"containerStatuses": [container("policy", state={"waiting": {"reason": "PodInitializing"}})]},
    {"initContainerStatuses": [container("build", state={"terminated": {"exitCode": 0}})]},
    {"containerStatuses": [container("policy", ready=True, state={}, lastState={"terminated": {"exitCode": 137}})]},
]


@pytest.mark.parametrize("status", STARTS)
def test_a_pod_that_starts_or_runs_has_no_trouble(status: dict[str, Any]) -> None:
    assert trouble(pod(**status)) == ""


def test_a_pod_without_a_node_is_described_by_the_schedulers_message() -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no GPU"}
    assert trouble(pod(conditions=[unscheduled])) == "pod ads-policy-1: 0/3 nodes: no GPU"


def test_an_image_that_cannot_be_pulled_is_named() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    description = trouble(pod(containerStatuses=[container("policy", state=waiting)]))
    assert description == "pod ads-policy-1, policy: ImagePullBackOff no such image"


def test_a_container_that_keeps_failing_is_described_by_its_last_log_line() -> None:
    log = "Traceback ...\n  in build\nerror: version v0009: known are v0001\n"
    states = {
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
        "lastState": {"terminated": {"exitCode": 2, "reason": "Error", "message": log}},
    }
    description = trouble(pod(initContainerStatuses=[container("build", **states)]))
    assert description == "pod ads-policy-1, build ended with 2: error: version v0009: known are v0001"


class OneRouter:
    """An API server with a running router pod, and that router's own counters."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.asked: list[tuple[str, int]] = []

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        return None

    def list(self, version: str, kind: str, namespace: str | None, labels: str) -> list[Manifest]:
        if kind != "Pod":
            return []
        meta = {"name": "ads-router-0", "uid": "u-2", "labels": {"app.kubernetes.io/component": "router"}}
        return [{"metadata": meta, "status": {"phase": "Running", "podIP": "10.0.0.1"}}]

    def serves(self, group: str) -> bool:
        return False

    def read(self, address: str, since: int) -> str | None:
        self.asked.append((address, since))
        return self.metrics.rollout_report(since).decode()

    def answer(self, name: str, at: float) -> None:
        self.metrics.cohorts.count_answer(
            CountedAnswer(
                auction_id="",
                created=int(at),
                version=model_version(digest(name)),
                failed=False,
                asked_for_ads=True,
                shown=1,
                seconds=0.2,
                penalty=5.0,
                revenue=0,
                currency="USD",
            )
        )


def test_without_a_canary_a_router_is_asked_for_its_route_file_alone() -> None:
    router = OneRouter()
    router.metrics.follow(3, False, {"v1": ("v", 100.0, True)})
    router.answer("v1", START.timestamp() - 600)
    observer = Observer(router.read, clock=START.timestamp)
    observed = observer.observe(router, serving().desired(), None)
    assert observed.evidence is None
    assert [one.generation for one in observed.routers] == [3]
    assert router.asked == [("10.0.0.1:9090", minute_of(START.timestamp()))]


def test_during_a_canary_both_versions_are_read_from_its_first_minute_on() -> None:
    world, router = canary(), OneRouter()
    began = world.status.canary_since
    assert began is not None
    router.answer("v2", began.timestamp() - 120)  # of an earlier attempt
    for name, count in (("v1", 3), ("v2", 2)):
        for _ in range(count):
            router.answer(name, began.timestamp())
    later = began + timedelta(minutes=5)
    observed = Observer(router.read, clock=later.timestamp).observe(router, world.desired(), None)
    assert observed.evidence is not None
    assert router.asked == [("10.0.0.1:9090", minute_of(began.timestamp()))]
    assert (observed.evidence.ripe.new.answers.sum(), observed.evidence.ripe.old.answers.sum()) == (2, 3)
