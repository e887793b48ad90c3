"""The IRPOJob reconciler: single situations, then any sequence of events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.irpojob.plan import EPOCH_STEPS, Place, Step, job_name, places

from .irpojob_world import GRACE, World, message, reason, run_to

RESTARTABLE = {"PodFailed", "PodLost", "NodeLost", "OutOfMemory"}


def test_a_run_goes_through_its_steps_one_after_the_other() -> None:
    world = World.of()
    for _ in range(40):
        world.settle()
        world.succeed()
        world.tick()
    assert world.status.phase == "Complete"
    steps = [step for step in EPOCH_STEPS if step is not Step.FEEDBACK]
    assert world.done == [*(Place(e, s) for e in (1, 2) for s in steps), Place(2, Step.REGISTRATION)]
    assert world.ran == [job_name("quick", place, 0) for place in world.done]
    assert (world.status.best_epoch, world.status.model_version) == (2, "v1")
    assert world.status.progress == "11/11"
    assert world.events.count("StepComplete") == 11
    assert world.events[-1] == "Complete"


def test_steps_over_contexts_have_as_many_pods_as_asked_for() -> None:
    shares: dict[str, Any] = {"feedback": 3, "rollouts": 4, "pairs": 2, "evaluation": 5}
    world = World.of(config={"epochs": 1}, steps={name: {"pods": pods} for name, pods in shares.items()})
    seen: dict[str, int] = {}
    for _ in range(30):
        world.settle()
        seen |= {str(pod.place.step): len(world.running()) for pod in world.running()}
        world.succeed()
        world.tick()
    assert seen == {**shares, "reward": 1, "optimisation": 1, "registration": 1}
    assert [place.step for place in world.done] == [*EPOCH_STEPS, Step.REGISTRATION]


def test_a_steps_result_is_that_of_the_shard_that_merged_all() -> None:
    world = World.of(steps={"rollouts": {"pods": 3}})
    run_to(world, Step.ROLLOUTS)
    world.succeed()
    for name, pod in world.pods.items():
        output = '{"found": "all merged"}' if pod.index == 1 else "{}"
        world.pods[name] = replace(pod, output=output)
    world.tick()
    done = [event for event in world.reconcile().events if event.reason == "StepComplete"]
    assert [event.message for event in done] == ["rollouts of epoch 1 is done: all merged"]


def test_one_lost_pod_restarts_the_whole_step() -> None:
    world = World.of()
    run_to(world, Step.OPTIMISATION)
    world.fail(world.running()[1], 1)
    world.tick()
    world.settle()
    assert world.status.phase == "Restarting"
    assert world.status.restarts == 1
    assert world.status.last_failure is not None
    assert (world.status.last_failure.reason, world.status.last_failure.exit_code) == ("PodFailed", 1)
    assert "last output" in message(world, "Progressing")
    assert not world.running(), "no pod starts before the back-off is over"
    world.wait(11)
    world.settle()
    assert world.ran[-1] == "quick-e1-opt-1"
    assert len(world.running()) == 2


def test_the_back_off_doubles_with_each_restart() -> None:
    world = World.of(backoffSeconds=10, maxRestarts=9)
    waits = []
    for _ in range(4):
        run_to(world, Step.REWARD)
        world.fail(world.running()[0], 1)
        world.tick()
        world.settle()
        assert world.status.not_before is not None
        waits.append((world.status.not_before - world.now).total_seconds())
        world.wait(waits[-1])
    assert waits == [10, 20, 40, 80]


def test_the_back_off_begins_again_after_progress() -> None:
    world = World.of(backoffSeconds=10, maxRestarts=9)
    world.settle()

    def fail_after(seconds: float) -> float:
        world.wait(seconds)
        world.fail(world.running()[0], 1)
        world.tick()
        world.reconcile()
        assert world.status.not_before is not None
        wait = (world.status.not_before - world.now).total_seconds()
        world.wait(wait)
        world.tick()
        world.settle()
        return wait

    assert [fail_after(1) for _ in range(3)] == [10, 20, 40]
    assert fail_after(700) == 10, "it ran for more than ten minutes"
    assert fail_after(1) == 20
    world.succeed()
    world.tick()
    world.settle()
    assert fail_after(1) == 10, "a step is done"
    assert world.status.restarts == 6


def test_the_job_fails_with_the_last_failure_when_its_restarts_are_used() -> None:
    world = World.of(maxRestarts=1, backoffSeconds=0)
    for _ in range(2):
        run_to(world, Step.REWARD)
        world.fail(world.running()[0], 1)
        world.tick()
        world.settle()
    assert reason(world, "Failed") == "RestartsExhausted"
    assert "after 1 of 1 restarts, PodFailed: reward of epoch 1" in message(world, "Failed")


@pytest.mark.parametrize(("code", "expected"), [(2, "BadInput"), (3, "GuardFired")])
def test_what_a_restart_cannot_fix_fails_at_once_with_the_containers_message(code: int, expected: str) -> None:
    world = World.of()
    run_to(world, Step.ROLLOUTS)
    first, second = world.running()
    world.fail(first, 1)  # deleted because the other failed, but listed first
    world.fail(second, code)
    world.tick()
    world.settle()
    assert reason(world, "Failed") == expected
    assert "last output" in message(world, "Failed")
    assert world.status.restarts == 0


def test_out_of_memory_restarts_once_and_then_fails() -> None:
    world = World.of(maxRestarts=9, backoffSeconds=0)
    run_to(world, Step.OPTIMISATION)
    world.fail(world.running()[0], 137, "OOMKilled")
    world.tick()
    run_to(world, Step.OPTIMISATION)
    assert world.status.restarts == 1
    world.fail(world.running()[0], 4)
    world.tick()
    world.settle()
    assert reason(world, "Failed") == "OutOfMemory"
    assert "twice at the same size" in message(world, "Failed")


def test_out_of_memory_in_different_steps_does_not_add_up() -> None:
    world = World.of(maxRestarts=9, backoffSeconds=0)
    for step in (Step.ROLLOUTS, Step.OPTIMISATION):
        run_to(world, step)
        world.fail(world.running()[0], 4)
        world.tick()
    run_to(world, Step.EVALUATION)
    assert world.status.restarts == 2


def test_a_dead_node_never_leaves_a_job_running() -> None:
    world = World.of(nodeLossSeconds=60, backoffSeconds=0)
    run_to(world, Step.OPTIMISATION)
    world.lose("n1")
    world.wait(59)
    world.settle()
    assert world.status.phase == "Running", "a node may be silent for a short time"
    world.wait(1)
    world.reconcile()
    assert world.status.last_failure is not None
    assert world.status.last_failure.reason == "NodeLost"
    world.tick()
    world.settle()
    assert not [pod for pod in world.pods.values() if pod.node == "n1" and pod.attempt == 0 and pod.live]
    world.tick()
    world.settle()
    assert world.ran[-1] == "quick-e1-opt-1"


def test_a_node_that_does_not_start_a_pod_makes_the_step_restart_elsewhere() -> None:
    world = World.of(nodeLossSeconds=60, backoffSeconds=0)
    run_to(world, Step.OPTIMISATION)
    pod = world.running()[1]
    world.pods[pod.name] = replace(pod, phase="Pending", placed=world.now, reported=False)
    world.wait(299)
    world.settle()
    assert world.status.restarts == 0
    world.wait(1)
    world.reconcile()
    assert world.status.last_failure is not None
    assert "has not started pod" in world.status.last_failure.message
    world.settle()
    # The pod does not end either: its node reports Ready but does nothing.
    stuck = replace(world.pods[pod.name], gone_by=world.now + GRACE)
    for _ in range(3):
        world.tick()
        world.pods[pod.name] = stuck
        world.settle()
    assert world.ran[-1] == "quick-e1-opt-0"
    world.wait(GRACE.total_seconds() + 60)
    world.settle()
    assert pod.name not in world.pods
    world.tick()
    world.settle()
    assert world.ran[-1] == "quick-e1-opt-1"


def test_suspension_deletes_every_pod_and_the_run_continues_after_it() -> None:
    world = World.of()
    run_to(world, Step.OPTIMISATION)
    world.set_spec(suspend=True)
    world.settle()
    assert world.status.phase == "Suspending"
    world.tick()
    world.settle()
    assert world.status.phase == "Suspended"
    assert not world.pods or not any(pod.live for pod in world.pods.values())
    world.wait(100_000)
    world.settle()
    assert reason(world, "Suspended") == "Suspended"
    world.set_spec(suspend=False)
    world.settle()
    assert world.ran[-1] == "quick-e1-opt-1"
    assert world.status.restarts == 0, "a suspension is no failure"


def test_time_suspended_does_not_count_towards_the_deadline() -> None:
    world = World.of(activeDeadlineSeconds=100)
    run_to(world, Step.REWARD)
    world.wait(60)
    world.set_spec(suspend=True)
    world.settle()
    world.tick()
    world.settle()
    world.wait(5000)
    world.set_spec(suspend=False)
    world.settle()
    world.wait(39)
    world.settle()
    assert world.status.phase == "Running"
    world.wait(1)
    world.settle()
    assert reason(world, "Failed") == "DeadlineExceeded"
    assert "last state Running: reward of epoch 1" in message(world, "Failed")
    world.tick()
    assert not world.active()


def test_a_finished_job_is_deleted_after_its_ttl() -> None:
    world = World.of(config={"epochs": 1}, ttlSecondsAfterFinished=60)
    for _ in range(20):
        world.settle()
        world.succeed()
        world.tick()
    assert world.status.phase == "Complete"
    assert world.reconcile().requeue_after_s == 60
    assert not world.deleted
    world.wait(60)
    world.reconcile()
    assert world.deleted


def test_a_configuration_that_the_trainer_refuses_starts_nothing() -> None:
    world = World.of(config={"world": {"kind": "webis"}})
    world.settle()
    assert reason(world, "Failed") == "InvalidSpec"
    assert "world.path" in message(world, "Failed")
    assert not world.ran


def test_an_image_that_cannot_be_pulled_fails_after_five_minutes() -> None:
    world = World.of()
    run_to(world, Step.REWARD)
    [pod] = world.running()
    world.pods[pod.name] = replace(pod, phase="Pending", waiting="ImagePullBackOff", waiting_for="no such image")
    world.settle()
    assert reason(world, "Progressing") == "ImageUnavailable", "reported at once, before the job fails"
    assert "ImagePullBackOff: no such image; the job fails at 12:0" in message(world, "Progressing")
    world.wait(298)
    world.settle()
    assert world.status.phase != "Failed"
    world.wait(2)
    world.settle()
    assert reason(world, "Failed") == "ImageUnavailable"
    assert "no such image" in message(world, "Failed")


EVENTS = st.one_of(
    st.tuples(st.just("reconcile"), st.integers(0, 6)),
    st.tuples(st.just("fail"), st.integers(0, 3), st.sampled_from([1, 1, 1, 2, 3, 4, 137, 143])),
    st.tuples(st.just("evict"), st.integers(0, 3)),
    st.tuples(st.just("lose"), st.integers(0, 1)),
    st.tuples(st.just("recover"), st.integers(0, 1)),
    st.tuples(st.just("succeed")),
    st.tuples(st.just("tick")),
    st.tuples(st.just("wait"), st.sampled_from([1, 15, 70, 600])),
    st.tuples(st.just("suspend")),
    st.tuples(st.just("resume")),
    st.tuples(st.just("delete job")),
)


def apply_event(world: World, event: tuple[Any, ...]) -> None:
    running = world.running()
    match event:
        case ("reconcile", acts):
            world.reconcile(acts)  # the operator dies after this many actions
        case ("fail", which, code) if running:
            world.fail(running[which % len(running)], code)
        case ("evict", which) if running:
            world.evict(running[which % len(running)])
        case ("lose", node):
            world.lose(f"n{node}")
        case ("recover", node):
            world.recover(f"n{node}")
        case ("succeed",):
            world.succeed()
        case ("tick",):
            world.tick()
        case ("wait", seconds):
            world.wait(seconds)
        case ("suspend",):
            world.set_spec(suspend=True)
        case ("resume",):
            world.set_spec(suspend=False)
        case ("delete job",) if world.active():
            name = world.active()[0]
            world.jobs[name] = replace(world.jobs[name], deleting=True)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(EVENTS, max_size=30), restarts=st.integers(0, 3))
def test_after_any_events_a_job_ends_with_the_right_reason_and_nothing_running(
    events: list[tuple[Any, ...]], restarts: int
) -> None:
    world = World.of(maxRestarts=restarts)
    codes: set[int] = set()
    for event in events:
        before = {pod.name for pod in world.running()}
        apply_event(world, event)
        if event[0] == "fail" and before:
            codes.add(event[2])
    world.set_spec(suspend=False)
    for node in ("n0", "n1"):
        world.recover(node)
    for _ in range(80):
        world.settle()
        if world.status.phase in ("Complete", "Failed"):
            break
        world.succeed()
        world.tick()
        world.wait(700)
    assert world.status.phase in ("Complete", "Failed"), world.status
    world.tick()
    world.settle()
    world.tick()
    assert not world.active()
    assert not world.running()
    assert len(world.ran) == len(set(world.ran)) or "delete job" in {event[0] for event in events}
    if world.status.phase == "Complete":
        plan = places(2, world.desired.spec.steps)
        assert sorted(set(world.done), key=plan.index) == list(plan)
        return
    failed = reason(world, "Failed")
    failure = world.status.last_failure
    assert failed in {"BadInput", "GuardFired", "OutOfMemory", "RestartsExhausted"}
    assert failure is not None
    if failed == "RestartsExhausted":
        assert world.status.restarts == restarts
        assert failure.reason in RESTARTABLE
    else:
        assert {"BadInput": 2, "GuardFired": 3}.get(failed, failure.exit_code) in codes
