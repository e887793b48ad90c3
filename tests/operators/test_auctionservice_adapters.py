"""Versions that are adapters of one base share the policy servers: a canary of one needs no further GPU."""

from __future__ import annotations

from typing import Any

import pytest

from operators.resources.base import Manifest
from serving.policies.route_file import parse_routes

from .service_world import BROKEN, World, counts, digest, model, spec


def ask_for(world: World, name: str, base: str = "base", **changes: Any) -> None:
    """Change `spec.model` to an adapter."""
    world.request(name, **changes)
    world.spec = world.spec | {"model": adapter(name, base)}


def adapter(name: str, base: str = "base") -> dict[str, str]:
    return {**model(name), "base": digest(base)}


def serving_adapter(**changes: Any) -> World:
    """Return a world in which an adapter serves on two servers, beside which the nodes have no room."""
    world = World({**spec(**changes, policy__replicas=2), "model": adapter("v1")}, room=2)
    world.settle("v1")
    assert world.weights() == {"v1": 100}
    return world


def deployments(world: World) -> dict[str, Manifest]:
    return {name: item for (kind, name), item in world.objects.items() if kind == "Deployment" and "policy" in name}


def test_servers_load_the_base_and_the_route_file_names_the_adapter() -> None:
    world = serving_adapter()
    (deployment,) = deployments(world).values()
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--load-model=policy-{digest('base')[:12]}" in arguments
    (route,) = parse_routes(world.objects["ConfigMap", "ads-routes"]["data"]["routes.json"].encode(), "r").versions
    assert (route.digest, route.base) == (digest("v1"), digest("base"))
    assert route.server == f"ads-policy-{digest('base')[:12]}.shop.svc:8001"


def test_an_adapter_takes_over_on_the_servers_of_the_stable_one() -> None:
    world = serving_adapter()
    before = deployments(world)
    ask_for(world, "v2")
    started = world.step(1).events[0]
    assert started.message == "v2 is loaded on the policy servers of v1, and gets no traffic yet"
    world.settle("v2")
    assert (world.weights(), world.status.candidate_replicas) == ({"v1": 90, "v2": 10}, 0)
    for _ in range(2):
        world.count_equal()
        world.step(61)
        world.sync()
        assert deployments(world) == before, "no pod is added, replaced or taken away"
    assert world.weights() == {"v2": 100}
    world.step(301)
    assert (world.status.retiring, deployments(world)) == ([], before)


def test_servers_with_a_registry_build_the_adapters_that_the_route_file_names() -> None:
    world = serving_adapter(policy__source={"registry": "s3://auction/production"})
    before = deployments(world)
    (deployment,) = before.values()
    pod = deployment["spec"]["template"]["spec"]
    first, sidecar = pod["initContainers"]
    assert first["command"] == sidecar["command"] == ["llm-auction", "triton", "follow", "s3://auction/production"]
    assert (first["args"][-1], sidecar["restartPolicy"]) == ("--once", "Always")
    assert f"--base={digest('base')}" in sidecar["args"]
    path = next(one.partition("=")[2] for one in sidecar["args"] if one.startswith("--routes="))
    (mounted,) = (one for one in sidecar["volumeMounts"] if path.startswith(one["mountPath"] + "/"))
    volume = next(one for one in pod["volumes"] if one["name"] == mounted["name"])
    assert volume["configMap"] == {"name": "ads-routes"}
    ask_for(world, "v2")
    world.settle("v2")
    assert (world.weights(), deployments(world)) == ({"v1": 90, "v2": 10}, before)


def test_an_adapter_that_no_router_has_verified_gets_no_traffic() -> None:
    world = serving_adapter()
    ask_for(world, "v2")
    world.settle(passes=4)  # the servers are ready, but the adapter is not on them
    assert world.weights() == {"v1": 100, "v2": 0}
    assert world.condition("Progressing") == ("True", "NotVerified")


@pytest.mark.parametrize("reason", BROKEN)
def test_an_adapter_that_breaks_a_guard_is_rolled_back_and_the_servers_stay(reason: str) -> None:
    world = serving_adapter()
    before = deployments(world)
    ask_for(world, "v2")
    world.settle("v2")
    world.count(v1=counts(15_000), v2=BROKEN[reason])
    world.step(5)
    assert world.weights() == {"v1": 100}
    world.sync()
    world.settle(passes=3)
    assert (world.status.phase, world.status.retiring, deployments(world)) == ("RolledBack", [], before)


@pytest.mark.parametrize("other", ["base", "settings", "kind"])
def test_other_servers_are_made_where_the_version_cannot_share_them(other: str) -> None:
    world = serving_adapter()
    world.room = 4
    before = deployments(world)
    if other == "base":
        ask_for(world, "v2", base="another base")
    elif other == "settings":
        ask_for(world, "v2", policy__image="triton:26.11")
    else:
        world.request("v2")
    world.settle("v2", world.candidate if world.status.candidate else "v2")
    world.settle(world.candidate)
    assert world.weights() == {"v1": 90, world.candidate: 10}
    assert len(deployments(world)) == 2
    assert deployments(world).items() >= before.items()


def test_the_base_itself_and_its_adapters_have_servers_of_their_own() -> None:
    world = World(spec("base"))
    world.settle("base")
    ask_for(world, "v1")
    world.step(1)
    world.settle(world.candidate)
    assert len(deployments(world)) == 2
    assert world.weights() == {"base": 90, world.candidate: 10}


def test_an_adapter_that_had_servers_of_its_own_moves_to_shared_ones() -> None:
    world = World(spec())
    world.settle("v1")
    ask_for(world, "v1")
    world.step(1)
    text = world.objects["ConfigMap", "ads-routes"]["data"]["routes.json"]
    alone, shared = parse_routes(text.encode(), "routes.json").versions  # a route file has each name once
    assert (alone.name, alone.base) == ("v1", "")
    assert (shared.name, shared.digest, shared.base) == (world.candidate, digest("v1"), digest("base"))
    world.settle(world.candidate)
    assert world.weights() == {"v1": 90, world.candidate: 10}
    assert len(deployments(world)) == 2


def test_new_settings_of_servers_that_adapters_share_go_through_the_canary() -> None:
    world = serving_adapter()
    world.room = 4
    world.change(policy__image="triton:26.11")
    world.spec = world.spec | {"model": adapter("v1")}
    world.step(1)
    world.settle(world.candidate)
    assert world.weights() == {"v1": 90, world.candidate: 10}
    for _ in range(2):
        world.count_equal()
        world.step(61)
        world.settle(world.candidate)
    world.step(301)
    stable = world.status.stable
    assert stable is not None
    # The next adapter shares the new servers.
    ask_for(world, "v2")
    world.step(1)
    assert world.candidate == f"v2+{stable.revision}"
    assert len(deployments(world)) == 1
