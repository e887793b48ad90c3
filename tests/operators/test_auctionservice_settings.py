"""Changed settings of the policy servers: a version like another, which takes over step by step or is rolled back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from operators.objects import desired_state
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus
from serving.policies.route_file import parse_routes

from .service_world import BROKEN, World, counts, digest, serving

CHANGES: dict[str, Any] = {
    "image": "triton:26.11",
    "resources": {"requests": {"cpu": "8"}},
    "env": [{"name": "OMP_NUM_THREADS", "value": "4"}],
    "args": ["--log-verbose=1"],
    "gpus": 1,
    "nodeSelector": {"gpu": "h200"},
}


def changed(**changes: Any) -> World:
    """Return a world in which v1 serves and servers with other settings of the policy have their first share."""
    world = serving()
    world.change(**{f"policy__{name}": value for name, value in changes.items()})
    world.step(1)
    world.settle(world.candidate)
    return world


def image(world: World, name: str) -> str:
    return str(world.deployment(name)["spec"]["template"]["spec"]["containers"][0]["image"])


@pytest.mark.parametrize("field", CHANGES)
def test_other_settings_get_a_share_while_the_others_keep_theirs(field: str) -> None:
    world = serving()
    before = world.deployment("v1")
    world.change(**{f"policy__{field}": CHANGES[field]})
    world.step(5)
    name = world.candidate
    assert (world.status.phase, world.weights()) == ("Starting", {"v1": 100, name: 0})
    assert world.deployment("v1") == before
    world.settle(name)
    assert world.weights() == {"v1": 90, name: 10}
    assert world.deployment("v1") == before
    assert world.deployment(name)["spec"]["template"] != before["spec"]["template"]


def test_the_event_names_the_changed_fields() -> None:
    world = serving()
    world.change(policy__image="triton:26.11", policy__gpus=1)
    events = world.step(5).events
    assert [event.message for event in events if event.reason == "Starting"] == [
        f"{world.candidate} gets policy servers and no traffic yet; its servers have other settings than those of v1: "
        "gpus, image"
    ]


def test_good_settings_take_over_and_serve_as_the_stable_version() -> None:
    world = changed(image="triton:26.11")
    name = world.candidate
    assert name.startswith("v1+")
    for _ in range(2):
        world.count_equal()
        world.step(61)
        world.sync()
    assert world.weights() == {name: 100}
    assert world.status.stable is not None
    assert (world.status.stable.name, world.status.stable.digest) == ("v1", digest("v1"))
    assert image(world, name) == "triton:26.11"
    world.step(301)
    assert world.running == {name}
    assert set(world.status.settings) == {world.status.stable.key}
    # The next version has the settings of the specification, and its own name.
    world.request("v2")
    world.settle("v2")
    assert world.weights() == {name: 90, "v2": 10}
    assert image(world, "v2") == "triton:26.11"


@pytest.mark.parametrize("reason", BROKEN)
def test_settings_that_break_a_guard_are_rolled_back_and_not_tried_again(reason: str) -> None:
    world = changed(image="triton:26.11")
    name = world.candidate
    world.count(v1=counts(15_000), **{name: BROKEN[reason]})
    world.step(5)
    assert world.weights() == {"v1": 100}
    assert world.condition("RolledBack") == ("True", reason)
    assert world.status.rejected is not None
    assert world.status.rejected.name == name
    world.settle(passes=4)
    assert (world.running, image(world, "v1")) == ({"v1"}, "triton:26.10")
    assert (world.status.phase, world.weights()) == ("RolledBack", {"v1": 100})
    world.change(rollout__attempt=1)
    world.step(5)
    assert world.candidate == name
    world.change(policy__image="triton:26.12")
    world.step(5)
    assert world.candidate not in ("v1", name)


def test_settings_that_never_become_ready_are_rolled_back() -> None:
    world = serving(rollout__readySeconds=100)
    world.change(policy__image="misspelt")
    world.settle(passes=3)
    world.step(101)
    assert world.status.rejected is not None
    assert world.status.rejected.reason == "PolicyNotReady"
    assert (image(world, "v1"), world.weights()) == ("triton:26.10", {"v1": 100})


def test_setting_the_old_settings_back_ends_the_rollout() -> None:
    world = changed(image="triton:26.11")
    world.change(policy__image="triton:26.10")
    world.step(1)
    assert (world.status.phase, world.weights()) == ("Serving", {"v1": 100})
    assert "Aborted" in world.events


def test_settings_that_change_again_begin_a_new_rollout() -> None:
    world = changed(image="triton:26.11")
    first = world.candidate
    world.change(policy__image="triton:26.12")
    world.step(1)
    assert world.weights() == {"v1": 100, world.candidate: 0}
    assert world.candidate != first
    world.settle(world.candidate)
    assert world.running == {"v1", world.candidate}


def test_a_new_model_and_new_settings_are_one_version() -> None:
    world = serving()
    world.request("v2", policy__image="triton:26.11")
    world.settle("v2")
    assert world.weights() == {"v1": 90, "v2": 10}
    assert (image(world, "v1"), image(world, "v2")) == ("triton:26.10", "triton:26.11")


def test_the_first_version_is_corrected_where_it_runs() -> None:
    world = World(serving().spec)
    world.step(1)
    world.change(policy__image="triton:26.11")
    world.settle("v1")
    assert world.weights() == {"v1": 100}
    assert (image(world, "v1"), world.warnings) == ("triton:26.11", [])


def test_more_servers_are_no_new_version() -> None:
    world = serving()
    world.change(policy__replicas=3, policy__minReadySeconds=5)
    world.step(5)
    assert (world.weights(), world.replicas("v1")) == ({"v1": 100}, 3)


def test_the_routers_image_is_a_setting_where_it_builds_the_model_repository() -> None:
    registry = serving(policy__source={"registry": "s3://auction/production"})
    registry.change(router__image="llm-auction:0.2.0")
    registry.step(5)
    assert registry.candidate.startswith("v1+")
    folder = serving()
    folder.change(router__image="llm-auction:0.2.0")
    folder.step(5)
    assert folder.status.candidate is None


def forget_settings(world: World) -> None:
    """Leave in the status what an operator wrote that knew neither settings nor adapters."""
    status = world.status.to_api()
    del status["settings"]
    versions = [status[name] for name in ("stable", "candidate") if name in status]
    for part in (*versions, *status["retiring"], *status["traffic"]):
        for name in ("base", "revision", "key"):
            part.pop(name, None)
    world.status = AuctionServiceStatus.model_validate(status)


def test_a_service_of_an_earlier_operator_goes_on_with_what_it_runs() -> None:
    world = serving()
    forget_settings(world)
    assert world.step(5).actions == ()
    world.change(policy__image="triton:26.11")
    world.step(5)
    assert (image(world, "v1"), image(world, world.candidate)) == ("triton:26.10", "triton:26.11")


def test_a_rollout_of_an_earlier_operator_goes_on() -> None:
    world = serving()
    world.request("v2")
    world.settle("v2")
    forget_settings(world)
    assert world.step(5).actions == ()
    assert world.weights() == {"v1": 90, "v2": 10}
    for _ in range(2):
        world.count_equal()
        world.step(61)
        world.sync()
    assert world.weights() == {"v2": 100}
    forget_settings(world)  # v1 retires
    world.step(301)
    assert (world.running, list(world.status.settings)) == ({"v2"}, [digest("v2")[:12]])


def test_a_status_of_a_later_operator_is_read_after_a_step_back() -> None:
    world = changed(image="triton:26.11")
    status = world.status.to_api()
    for part in (status, status["stable"], *status["settings"].values(), *status["traffic"]):
        part["later"] = 1
    metadata = {"name": "ads", "namespace": "shop", "uid": "u-1", "creationTimestamp": "2026-11-25T12:00:00Z"}
    item = {"metadata": metadata, "spec": world.spec, "status": status}
    assert desired_state(item, AuctionServiceSpec, AuctionServiceStatus).status == world.status
    misspelt = item | {"spec": world.spec | {"later": 1}}
    with pytest.raises(ValidationError):
        desired_state(misspelt, AuctionServiceSpec, AuctionServiceStatus)


def test_routers_can_tell_the_servers_apart() -> None:
    world = changed(image="triton:26.11")
    text = world.objects["ConfigMap", "ads-routes"]["data"]["routes.json"]
    old, new = parse_routes(text.encode(), "routes.json").versions
    assert (old.name, old.digest, old.revision) == ("v1", digest("v1"), "")
    assert (new.name, new.digest) == (f"v1+{new.revision}", digest("v1"))
    assert new.server == f"ads-policy-{new.revision}.shop.svc:8001"
    assert "revision" not in json.loads(text)["versions"][0], "routers of an earlier release do not know it"
