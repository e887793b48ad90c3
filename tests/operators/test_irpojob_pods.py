"""Pods of a step that cannot all start: init containers, gangs without room, queues that nothing serves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from operators.irpojob.failures import failure_of, start_problem
from operators.irpojob.observe import Observed, ObservedJob, observed_pod
from operators.irpojob.plan import Step

from .irpojob_world import BEGIN, World, message, reason, run_to


def pod_item(**status: Any) -> dict[str, Any]:
    labels = {"llm-auction.io/epoch": "1", "llm-auction.io/step": "reward", "llm-auction.io/attempt": "0"}
    meta = {"name": "p", "uid": "u", "creationTimestamp": "2026-11-25T12:00:00Z", "labels": labels}
    meta["ownerReferences"] = [{"kind": "Job", "uid": "j"}]  # type: ignore[assignment]
    return {"metadata": meta, "spec": {"nodeName": "n0"}, "status": status}


def test_an_init_container_that_fails_is_the_cause() -> None:
    ended = {"terminated": {"exitCode": 2, "reason": "Error", "message": "no such file"}}
    waiting = {"name": "train", "state": {"waiting": {"reason": "PodInitializing"}}}
    item = pod_item(
        phase="Failed",
        initContainerStatuses=[{"name": "fetch", "state": ended}],
        containerStatuses=[waiting],
    )
    pod = observed_pod(item)
    job = ObservedJob("a-job", "j", pod.place, 0, "failed")
    cause = failure_of(job, Observed((job,), (pod,)), 60, BEGIN)
    assert cause is not None
    # Exit code 2 means bad input for the training alone, so a restart may help here.
    assert cause.reason == "PodFailed"
    assert cause.message == "init container fetch of pod p ended with exit code 2: no such file"


def test_an_init_container_without_an_image_is_reported() -> None:
    failing = {"name": "fetch", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    running = {"name": "logs", "state": {"running": {}}}
    main = {"name": "train", "state": {"waiting": {"reason": "PodInitializing"}}}
    problem = start_problem(
        [observed_pod(pod_item(initContainerStatuses=[running, failing], containerStatuses=[main]))]
    )
    assert problem is not None
    assert problem.reason == "ImageUnavailable"


def test_a_sidecar_does_not_hide_the_end_of_the_training() -> None:
    stopped = {"name": "logs", "state": {"terminated": {"exitCode": 143, "message": "stopped"}}}
    bad_input = {"name": "train", "state": {"terminated": {"exitCode": 2, "message": "config.yaml: no such world"}}}
    pod = observed_pod(pod_item(phase="Failed", initContainerStatuses=[stopped], containerStatuses=[bad_input]))
    job = ObservedJob("a-job", "j", pod.place, 0, "failed")
    cause = failure_of(job, Observed((job,), (pod,)), 60, BEGIN)
    assert cause is not None
    assert (cause.reason, cause.message) == ("BadInput", "config.yaml: no such world")
    done = {"name": "train", "state": {"terminated": {"exitCode": 0, "message": '{"model_version": "v0001"}'}}}
    pod = observed_pod(pod_item(phase="Succeeded", initContainerStatuses=[stopped], containerStatuses=[done]))
    assert (pod.exit_code, pod.outcome) == (0, {"model_version": "v0001"})


def test_a_sidecar_that_crashes_beside_the_training_does_not_fail_the_job() -> None:
    crashing = {"name": "logs", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    running = {"name": "train", "state": {"running": {}}}
    pod = observed_pod(pod_item(phase="Running", initContainerStatuses=[crashing], containerStatuses=[running]))
    job = ObservedJob("a-job", "j", pod.place, 0, "active")
    assert failure_of(job, Observed((job,), (pod,)), 60, BEGIN + timedelta(hours=10)) is None


def with_half_a_gang(**changes: Any) -> World:
    """Return a world in which one of two optimisation pods finds no node."""
    world = World.of(backoffSeconds=10, **changes)
    run_to(world, Step.OPTIMISATION)
    lonely = next(pod for pod in world.pods.values() if pod.place.step is Step.OPTIMISATION and pod.index == 1)
    world.pods[lonely.name] = replace(lonely, node=None, phase="Pending", unschedulable="0/2 nodes: no GPU")
    return world


def test_a_step_that_holds_nodes_for_a_part_of_its_pods_gives_them_back() -> None:
    world = with_half_a_gang(gangSeconds=120)
    world.settle()
    assert reason(world, "Progressing") == "Unschedulable"
    world.wait(121)
    world.reconcile()
    assert reason(world, "Progressing") == "GangIncomplete"
    world.reconcile()
    for _ in range(3):
        world.tick()
    assert world.running() == [], "its nodes are free"
    assert world.status.restarts == 0
    world.wait(31)
    world.settle()
    assert world.ran[-1] == "quick-e1-opt-1"
    assert "GangIncomplete" in world.events


def test_the_time_that_a_gang_waits_without_any_node_does_not_count() -> None:
    world = with_half_a_gang(gangSeconds=120)
    held = next(pod.name for pod in world.pods.values() if pod.place.step is Step.OPTIMISATION and pod.index == 0)
    world.wait(1000)
    world.pods[held] = replace(world.pods[held], placed=world.now)
    world.wait(100)
    world.settle()
    assert reason(world, "Progressing") == "Unschedulable"
    world.wait(21)
    world.reconcile()
    assert reason(world, "Progressing") == "GangIncomplete"


def test_the_time_of_a_pod_on_its_node_is_that_of_its_binding() -> None:
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-25T12:05:00Z"}
    silent = observed_pod(pod_item(phase="Pending", conditions=[bound]))
    assert (silent.placed, silent.reported) == (BEGIN + timedelta(minutes=5), False)
    running = {"name": "train", "state": {"running": {}}}
    known = observed_pod(pod_item(phase="Running", conditions=[bound], containerStatuses=[running]))
    assert (known.placed, known.reported) == (silent.placed, True)
    waiting = observed_pod(pod_item(phase="Pending", conditions=[bound | {"status": "False", "message": "no GPU"}]))
    assert (waiting.placed, waiting.unschedulable) == (None, "no GPU")


def test_a_scheduler_of_gangs_is_left_to_it() -> None:
    world = with_half_a_gang(gangSeconds=0)
    world.wait(100_000)
    world.settle()
    assert reason(world, "Progressing") == "Unschedulable"


def test_a_step_without_any_node_keeps_waiting() -> None:
    world = with_half_a_gang(gangSeconds=120)
    for name, pod in world.pods.items():
        if pod.place.step is Step.OPTIMISATION:
            world.pods[name] = replace(pod, node=None, phase="Pending", unschedulable="0/2 nodes: no GPU")
    world.wait(1000)
    world.settle()
    assert reason(world, "Progressing") == "Unschedulable"


def test_a_queue_without_kueue_is_refused_until_it_is_installed() -> None:
    world = World.of(queueName="training")
    world.queues = False
    world.settle()
    assert world.ran == []
    assert world.events == ["NoQueue"]
    assert "install Kueue" in message(world, "Progressing")
    assert world.reconcile().requeue_after_s == 60
    world.queues = True
    world.settle()
    assert world.ran == ["quick-e1-reward-0"]
