"""How a service's status describes a pod that does not become ready."""

from __future__ import annotations

from typing import Any

import pytest

from operators.auctionservice.observe import trouble


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
