"""How a new version takes over, and how the last good one comes back: the reconciler as a function."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.actions import Note
from operators.auctionservice.guards import Counts
from operators.resources.auctionservice import AuctionServiceStatus
from serving.policies.route_file import parse_routes

from .services import World, counts, digest, healthy, spec


def serving(name: str = "v1", **changes: Any) -> World:
    world = World(spec(name, **changes))
    world.settle(name)
    assert world.status.phase == "Serving"
    return world


def canary(**changes: Any) -> World:
    """v1 serves, v2 has its first share."""
    world = serving(**changes)
    world.ask("v2")
    world.settle("v2")
    return world


def condition(world: World, kind: str) -> tuple[str, str]:
    found = next(one for one in world.status.conditions if one.type == kind)
    return found.status, found.reason


def test_the_first_version_is_stable_once_every_router_has_verified_it() -> None:
    world = World(spec())
    world.step()
    assert (world.status.phase, world.weights()) == ("Pending", {"v1": 100})
    assert condition(world, "Available") == ("False", "NoStableVersion")
    world.ready.add("v1")
    world.step(5)
    assert condition(world, "Progressing") == ("True", "RoutersBehind")
    world.sync()
    world.step(5)
    assert world.status.stable is not None
    assert (world.status.stable.name, world.status.phase) == ("v1", "Serving")
    assert condition(world, "Available") == ("True", "Serving")


def test_the_first_version_with_other_weights_never_becomes_stable() -> None:
    world = World(spec(), wrong={"v1"})
    world.settle("v1", looks=8)
    assert world.status.stable is None
    assert condition(world, "Progressing") == ("True", "NotVerified")


def test_a_new_version_gets_servers_first_and_no_traffic() -> None:
    world = serving()
    world.ask("v2")
    world.step(5)
    assert world.running == {"v1", "v2"}
    assert (world.status.phase, world.weights()) == ("Starting", {"v1": 100, "v2": 0})
    world.sync()
    world.step(5)
    assert condition(world, "Progressing") == ("True", "PolicyNotReady")
    assert world.weights()["v2"] == 0


def test_a_version_takes_over_step_by_step_and_the_one_before_goes_later() -> None:
    world = canary()
    assert world.weights() == {"v1": 90, "v2": 10}
    healthy(world)
    world.step(30)
    assert "28 s more" in next(c.message for c in world.status.conditions if c.type == "Progressing")
    world.step(40)
    assert world.weights() == {"v1": 50, "v2": 50}
    world.sync()
    healthy(world)
    world.step(61)
    assert world.weights() == {"v2": 100}
    assert world.status.stable is not None
    assert world.status.stable.digest == digest("v2")
    assert world.running == {"v1", "v2"}  # for a quick way back
    world.sync()
    world.step(301)
    assert world.running == {"v2"}
    assert world.status.retiring == []


def test_a_step_waits_for_answers_to_compare_and_for_every_router() -> None:
    world = canary()
    world.count(v1=counts(500), v2=counts(99))
    world.step(1000)
    assert world.weights()["v2"] == 10
    assert "1 more answers" in next(c.message for c in world.status.conditions if c.type == "Progressing")
    world.count(v1=counts(500), v2=counts(100))
    world.followed[1] -= 1
    world.step(10)
    assert world.weights()["v2"] == 10
    world.sync()
    world.step(10)
    assert world.weights()["v2"] == 50


def test_routers_that_the_operator_cannot_read_hold_a_version_up_and_are_named() -> None:
    world = serving()
    world.ask("v2")
    world.ready.add("v2")
    world.silent = {1}
    for _ in range(4):
        world.step(5)
        world.sync()
    told = next(c for c in world.status.conditions if c.type == "Progressing")
    assert "the figures of 1 of 2 routers cannot be read, those of ads-router-1 at" in told.message
    assert world.events.count("RoutersBehind") == 1, "told once, as an event"
    assert world.weights() == {"v1": 100, "v2": 0}
    world.silent = set()
    world.settle("v2")
    assert world.weights() == {"v1": 90, "v2": 10}


def test_a_router_that_is_behind_has_its_kubelet_hurried_once_the_file_is_old() -> None:
    world = serving()
    world.ask("v2")
    assert not [action for action in world.step(5).actions if isinstance(action, Note)]
    notes = [action for action in world.step(5).actions if isinstance(action, Note)]
    assert [(one.name, one.annotations) for one in notes] == [
        (f"ads-router-{i}", {"llm-auction.io/routes": str(world.status.routes_generation)}) for i in (0, 1)
    ]
    world.sync()
    assert not [action for action in world.step(5).actions if isinstance(action, Note)]


BROKEN = {
    "ErrorRate": counts(300, failed=30),
    "Latency": counts(300, slow=60),
    "Revenue": counts(300, bid=200_000),
    "ClickRate": counts(300, clicks=20, bid=2_500_000),
    "AdLoad": Counts(300, 0, 900, 230, 230 * 500_000, counts(300).buckets),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_guard_brings_the_last_good_version_back_at_once(reason: str) -> None:
    world = canary()
    world.count(v1=counts(3000), v2=BROKEN[reason])
    world.step(5)
    assert world.weights() == {"v1": 100}
    assert world.status.phase == "RolledBack"
    assert world.status.rejected is not None
    assert (world.status.rejected.name, world.status.rejected.reason) == ("v2", reason)
    assert condition(world, "RolledBack") == ("True", reason)
    assert "v2" in world.running  # until no router can send anything to it
    world.sync()
    world.settle(looks=3)
    assert world.running == {"v1"}
    assert (world.status.phase, world.weights()) == ("RolledBack", {"v1": 100})


def test_chance_breaks_no_guard() -> None:
    world = canary()
    world.count(v1=counts(3000, failed=10), v2=counts(60, failed=2, slow=5, clicks=11))
    world.step(5)
    assert world.weights() == {"v1": 90, "v2": 10}
    figures = world.status.candidate_figures
    assert figures is not None
    assert (figures.answers, figures.error_rate) == (60, 0.0333)


def test_a_version_that_was_given_up_is_tried_again_on_demand_only() -> None:
    world = canary()
    world.count(v1=counts(3000), v2=BROKEN["ErrorRate"])
    world.step(5)
    world.settle(looks=5)
    assert world.status.candidate is None
    world.spec["rollout"]["attempt"] = 1
    world.settle(looks=4)
    assert world.status.candidate is not None
    assert world.weights() == {"v1": 90, "v2": 10}


def test_a_better_version_follows_one_that_was_given_up() -> None:
    world = canary()
    world.count(v1=counts(3000), v2=BROKEN["ErrorRate"])
    world.step(5)
    world.ask("v3")
    world.settle("v3")
    assert world.weights() == {"v1": 90, "v3": 10}
    assert condition(world, "RolledBack") == ("False", "NoneRejected")


def test_a_version_that_never_gets_ready_or_has_other_weights_is_given_up() -> None:
    for wrong, reason in ((set[str](), "PolicyNotReady"), ({"v2"}, "NotVerified")):
        world = serving(rollout__readySeconds=100)
        world.wrong = wrong
        world.ask("v2")
        world.settle(*wrong)
        world.step(101)
        assert world.status.rejected is not None
        assert world.status.rejected.reason == reason
        assert world.weights() == {"v1": 100}


def test_servers_that_stay_unready_end_a_take_over() -> None:
    world = canary()
    world.ready.discard("v2")
    world.step(5)
    assert world.status.candidate is not None  # perhaps just for a moment
    world.step(31)
    assert world.status.rejected is not None
    assert world.status.rejected.reason == "Unready"
    assert world.weights() == {"v1": 100}


def test_the_hold_keeps_a_version_at_a_share_until_it_is_raised() -> None:
    world = canary(rollout__maxWeight=30)
    healthy(world)
    world.step(61)
    assert (world.status.phase, world.weights()) == ("Held", {"v1": 70, "v2": 30})
    world.sync()
    healthy(world)
    world.step(1000)
    assert world.weights()["v2"] == 30
    world.spec["rollout"]["maxWeight"] = 100
    world.step(5)
    assert (world.status.phase, world.weights()) == ("Canary", {"v1": 50, "v2": 50})


def test_a_hold_of_nothing_loads_and_verifies_only() -> None:
    world = canary(rollout__maxWeight=0)
    assert (world.status.phase, world.weights()) == ("Held", {"v1": 100, "v2": 0})


def test_a_pause_keeps_everything_but_the_guards() -> None:
    world = canary()
    world.spec["rollout"]["paused"] = True
    healthy(world)
    world.step(1000)
    assert (world.status.phase, world.weights()) == ("Paused", {"v1": 90, "v2": 10})
    world.count(v1=counts(3000), v2=BROKEN["ErrorRate"])
    world.step(5)
    assert world.weights() == {"v1": 100}


def test_going_back_by_hand_ends_a_take_over() -> None:
    world = canary()
    world.ask("v1")
    world.step(1)
    assert (world.status.phase, world.weights()) == ("Serving", {"v1": 100})
    assert "Aborted" in world.events
    assert world.status.rejected is None


def test_without_steps_a_verified_version_has_everything_at_once() -> None:
    world = serving(rollout__steps=[])
    world.ask("v2")
    world.settle("v2")
    assert world.weights() == {"v2": 100}


def test_one_name_for_two_versions_is_refused() -> None:
    world = serving()
    world.spec = world.spec | {"model": {"name": "v1", "digest": digest("other")}}
    world.settle()
    assert world.weights() == {"v1": 100}
    assert condition(world, "Progressing") == ("False", "NameTaken")


def test_the_route_file_is_what_routers_read() -> None:
    world = canary()
    outcome = world.step(1)
    text = next(
        action.manifest["data"]["routes.json"]
        for action in outcome.actions
        if hasattr(action, "manifest") and action.manifest["kind"] == "ConfigMap"
    )
    routes = parse_routes(text.encode(), "routes.json")
    assert routes.generation == world.status.routes_generation
    assert [(v.name, v.weight, v.server) for v in routes.versions] == [
        ("v1", 90, f"ads-policy-{digest('v1')[:12]}.shop.svc:8001"),
        ("v2", 10, f"ads-policy-{digest('v2')[:12]}.shop.svc:8001"),
    ]
    assert json.loads(text)["versions"][0]["digest"] == digest("v1")


def test_an_operator_that_starts_anew_goes_on_where_it_was() -> None:
    """All it knows is in the status."""
    world = canary()
    world.status = AuctionServiceStatus.model_validate_json(world.status.model_dump_json(by_alias=True))
    healthy(world)
    world.step(61)
    assert world.weights() == {"v1": 50, "v2": 50}


NAMES = ("v1", "v2", "v3")
MOVES = st.one_of(
    st.tuples(st.just("prepare"), st.sampled_from(NAMES)),
    st.tuples(st.just("prepare"), st.sampled_from(NAMES)),
    st.tuples(st.just("follow"), st.none()),
    st.tuples(st.just("ask"), st.sampled_from(NAMES)),
    st.tuples(st.just("ready"), st.sampled_from(NAMES)),
    st.tuples(st.just("unready"), st.sampled_from(NAMES)),
    st.tuples(st.just("wrong"), st.sampled_from(NAMES)),
    st.tuples(st.just("right"), st.sampled_from(NAMES)),
    st.tuples(st.just("sync"), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.sampled_from([1, 31, 61, 1300])),
    st.tuples(st.just("count"), st.sampled_from(["good", *BROKEN])),
    st.tuples(st.just("hold"), st.sampled_from([0, 30, 100])),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("attempt"), st.integers(0, 2)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(MOVES, max_size=60))
def test_whatever_happens_traffic_is_whole_verified_and_goes_back_to_the_last_good_version(
    moves: list[tuple[str, Any]],
) -> None:
    world = World(spec())
    good: str | None = None
    for what, value in [("look", None), ("prepare", "v1"), *moves]:
        wait = play(world, what, value)
        before, seen = world.weights(), [world.router(i) for i in (0, 1)]
        ready, running, followed = set(world.ready), set(world.running), world.status.routes_generation
        rejected = world.status.rejected
        told, judged = len(world.events), world.status.candidate is not None and world.status.step >= 0
        world.step(wait)
        weights = world.weights()

        assert sum(weights.values()) == 100
        assert all(name in world.running for name in weights)
        if world.status.candidate is not None and good is not None:
            assert weights[world.status.candidate.name] <= world.spec["rollout"].get("maxWeight", 100)
        for name, weight in weights.items():
            if weight > before.get(name, 0) and name != good and good is not None:
                # it got more: its servers are ready, and every router follows the file and has verified its weights
                assert name in ready & running - world.wrong
                assert all(router.generation == followed for router in seen)
        if "Promoted" in world.events[told:]:
            stable = world.status.stable
            assert stable is not None
            assert stable.name in ready & running - world.wrong
            good = stable.name
        if world.status.rejected != rejected:
            assert weights == {good: 100}
        if what == "count" and value != "good" and judged:
            assert weights == {good: 100}
            assert "Promoted" not in world.events[told:]
        for router in seen:  # a router that is behind still sends questions where its file says
            assert {name for name, _, share in world.files.get(router.generation or 0, []) if share} <= world.running
        if good is None:
            assert len(weights) == 1  # nothing to go back to: routers themselves wait until it is verified
        else:
            assert world.status.stable is not None
            assert world.status.stable.name == good


def play(world: World, what: str, value: Any) -> float:
    """One thing that happens; how long it takes."""
    if what == "ask":
        world.ask(value)
    elif what == "prepare":
        world.ask(value)
        world.ready.add(value)
        world.sync()
    elif what == "follow":
        world.sync()
    elif what in ("ready", "unready"):
        (world.ready.add if what == "ready" else world.ready.discard)(value)
    elif what in ("wrong", "right"):
        (world.wrong.add if what == "wrong" else world.wrong.discard)(value)
    elif what == "sync":
        for i in (0, 1):
            if value in (i, 2):
                world.followed[i] = world.status.routes_generation
    elif what == "count" and world.status.candidate is not None and world.status.stable is not None:
        good = counts(500) if value == "good" else BROKEN[value]
        world.counted = {world.status.stable.name: counts(3000), world.status.candidate.name: good}
    elif what in ("hold", "pause", "attempt"):
        key = {"hold": "maxWeight", "pause": "paused", "attempt": "attempt"}[what]
        world.spec = world.spec | {"rollout": {**world.spec["rollout"], key: value}}
    return float(value) if what == "wait" else 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(MOVES, max_size=30))
def test_from_any_state_a_good_version_is_served_in_the_end(moves: list[tuple[str, Any]]) -> None:
    world = World(spec())
    for what, value in moves:
        wait = play(world, what, value)
        world.step(wait)
    world.wrong.clear()
    world.ask("v4", rollout__maxWeight=100, rollout__paused=False)
    for _ in range(12):
        world.settle(*NAMES, "v4", looks=2)
        if world.status.candidate is not None and world.status.stable is not None:
            healthy(world)
        world.step(61)
        world.sync()
    world.step(400)
    assert world.weights() == {"v4": 100}
    assert world.running == {"v4"}
