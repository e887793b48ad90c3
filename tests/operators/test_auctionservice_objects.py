"""The objects of a service in a pass: which are applied, and how many servers a version has, also on full nodes."""

from __future__ import annotations

import pytest

from operators.reconciliation import Apply

from .service_world import BROKEN, World, canary, counts, serving, spec


def test_a_pass_over_an_unchanged_service_takes_no_action() -> None:
    world = serving()
    for _ in range(3):
        assert world.step(60).actions == ()


def test_an_object_that_was_changed_by_hand_is_applied_again() -> None:
    world = serving()
    deployment = world.objects["Deployment", "ads-router"]
    world.objects["Deployment", "ads-router"] = {**deployment, "spec": {**deployment["spec"], "replicas": 7}}
    assert applied(world) == [("ads-router", True)]
    assert world.objects["Deployment", "ads-router"] == deployment


def test_the_number_of_routers_is_kept_until_an_autoscaler_sets_it() -> None:
    world = serving(router__replicas=6, router__resources={"requests": {"cpu": "1"}})
    router = {**world.spec["router"], "autoscaling": {"minReplicas": 2, "maxReplicas": 9}}
    del router["replicas"]
    world.spec = world.spec | {"router": router}
    assert applied(world) == []
    assert world.objects["Deployment", "ads-router"]["spec"]["replicas"] == 6
    router["autoscaling"] = {"minReplicas": 7, "maxReplicas": 9}
    # Not forced: if the autoscaler has set another number since the pass read it, that one counts.
    assert applied(world) == [("ads-router", False)]
    assert world.objects["Deployment", "ads-router"]["spec"]["replicas"] == 7
    world.autoscaled = True
    assert applied(world) == [("ads-router", True)]
    assert "replicas" not in world.objects["Deployment", "ads-router"]["spec"]


def test_an_autoscaled_service_begins_with_the_smallest_number_of_routers() -> None:
    scaling = {"router__autoscaling": {"minReplicas": 3}, "router__resources": {"requests": {"cpu": "1"}}}
    world = World(spec("v1", **scaling))
    world.step()
    assert world.objects["Deployment", "ads-router"]["spec"]["replicas"] == 3


def applied(world: World) -> list[tuple[str, bool]]:
    """Run a pass; return the Deployments that it applies, and whether by force."""
    actions = [one for one in world.step(5).actions if isinstance(one, Apply)]
    return [(one.manifest["metadata"]["name"], one.force) for one in actions if one.manifest["kind"] == "Deployment"]


def test_a_candidate_has_the_servers_that_its_share_needs() -> None:
    world = canary(policy__replicas=8)
    assert world.weights() == {"v1": 90, "v2": 10}
    assert (world.replicas("v1"), world.replicas("v2")) == (8, 1)
    world.count_equal()
    world.step(61)
    assert world.weights() == {"v1": 90, "v2": 10}, "its servers come first"
    assert world.replicas("v2") == 4
    assert "1 of 4 policy servers of v2 are ready" in world.message("Progressing")
    world.settle()
    assert world.weights() == {"v1": 50, "v2": 50}
    world.count_equal()
    world.step(61)
    assert world.replicas("v2") == 8
    world.settle()
    assert world.weights() == {"v2": 100}
    assert (world.replicas("v1"), world.replicas("v2")) == (8, 8), "the former version is kept for a return"


FULL = {  # servers, room on the nodes, maxUnavailable
    "one spare": (4, 5, 0),
    "no spare": (4, 4, 1),
    "no spare, many to give up": (4, 4, 9),
    "two servers, no spare": (2, 2, 1),
    "one server and one spare": (1, 2, 0),
    "many servers": (9, 10, 0),
}


@pytest.mark.parametrize("case", FULL)
def test_full_nodes_do_not_stop_a_rollout(case: str) -> None:
    servers, room, unavailable = FULL[case]
    world = serving(policy__replicas=servers, rollout__maxUnavailable=unavailable, room=room)
    world.request("v2")
    for _ in range(60):
        world.settle("v2", passes=1)
        for name, share in world.weights().items():
            least = max(1, -(-servers * (share - 1) // 100) - unavailable) if share else 0
            assert world.placed[name] >= least, f"{name} bears {share}%"
        if world.canary is not None:
            world.count_equal()
        world.step(61)
    assert world.weights() == {"v2": 100}
    assert world.placed == {"v2": servers}
    assert world.status.rejected is None


def test_a_version_without_any_room_is_rolled_back_with_the_schedulers_reason() -> None:
    world = serving(policy__replicas=2, rollout__maxUnavailable=0, rollout__readySeconds=60, room=2)
    world.request("v2")
    world.settle("v2", passes=3)
    assert world.weights() == {"v1": 100, "v2": 0}
    world.step(61)
    assert world.status.rejected is not None
    assert world.status.rejected.reason == "PolicyNotReady"
    world.settle()
    assert world.placed == {"v1": 2}


def test_a_rollback_on_full_nodes_restores_the_stable_version() -> None:
    world = serving(policy__replicas=4, room=4)
    world.request("v2")
    world.settle("v2", passes=6)
    assert world.placed == {"v1": 3, "v2": 1}
    world.count(v1=counts(15_000), v2=BROKEN["ErrorRate"])
    world.step(1)
    world.settle()
    assert world.status.phase == "RolledBack"
    assert world.placed == {"v1": 4}


def test_pods_are_replaced_on_full_nodes() -> None:
    def unavailable(world: World) -> int:
        return int(world.deployment("v1")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"])

    world = serving(policy__replicas=2, room=2)
    assert unavailable(world) == 0
    world.placed["v1"] = 1  # a new pod waits beside an old one
    world.step(5)
    assert unavailable(world) == 1
    world.step(5)
    assert unavailable(world) == 0


def test_servers_that_the_operator_renders_otherwise_are_replaced_one_after_the_other() -> None:
    world = serving(policy__replicas=3, policy__minReadySeconds=120)
    world.spec = world.spec | {"imagePullSecrets": [{"name": "registry"}]}
    world.step(5)
    spec = world.deployment("v1")["spec"]
    assert spec["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert (spec["minReadySeconds"], spec["strategy"]["rollingUpdate"]) == (120, {"maxUnavailable": 0, "maxSurge": 1})
    world.outdated = {"v1": 2}
    world.step(5)
    assert world.condition("Progressing") == ("True", "Replacing")
    assert world.message("Progressing") == "2 policy servers of v1 still run as the operator had them before"
    world.outdated = {}
    world.step(5)
    assert world.condition("Progressing") == ("False", "Serving")
    assert world.events[-2:] == ["Replacing", "Serving"]
