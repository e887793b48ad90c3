"""Invariants of the AuctionService reconciler under any sequence of events."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from .service_world import BROKEN, World, counts, spec

NAMES = ("v1", "v2", "v3")
MOVES = st.one_of(
    st.tuples(st.just("prepare"), st.sampled_from(NAMES)),
    st.tuples(st.just("prepare"), st.sampled_from(NAMES)),
    st.tuples(st.just("follow"), st.none()),
    st.tuples(st.just("request"), st.sampled_from(NAMES)),
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
    st.tuples(st.just("image"), st.sampled_from(["triton:26.10", "triton:26.11"])),
    st.tuples(st.just("prepare candidate"), st.none()),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(MOVES, max_size=60))
def test_traffic_always_sums_to_100_and_only_a_verified_version_gets_more(moves: list[tuple[str, Any]]) -> None:
    world = World(spec())
    good: str | None = None
    for move, value in [("reconcile", None), ("prepare", "v1"), *moves]:
        wait = play(world, move, value)
        before, routers = world.weights(), [world.router(i) for i in (0, 1)]
        ready, running, followed = set(world.ready), set(world.running), world.status.routes_generation
        rejected, earlier_events = world.status.rejected, len(world.events)
        has_traffic = world.status.candidate is not None and world.status.step >= 0
        world.step(wait)
        weights = world.weights()

        assert sum(weights.values()) == 100
        assert all(name in world.running for name in weights)
        if world.status.candidate is not None and good is not None:
            assert weights[world.candidate] <= world.spec["rollout"].get("maxWeight", 100)
        for name, weight in weights.items():
            if weight > before.get(name, 0) and name != good and good is not None:
                # Its share grew: its servers are ready, every router follows the file and has verified its weights.
                assert name in ready & running - world.wrong
                assert all(router.generation == followed for router in routers)
        if "Promoted" in world.events[earlier_events:]:
            stable = world.status.stable
            assert stable is not None
            assert stable.route in ready & running - world.wrong
            good = stable.route
        if world.status.rejected != rejected:
            assert weights == {good: 100}
        if move == "count" and value != "good" and has_traffic:
            assert weights == {good: 100}
            assert "Promoted" not in world.events[earlier_events:]
        for router in routers:  # one that is behind still sends questions by its older file
            assert {name for name, _, share in world.files.get(router.generation or 0, []) if share} <= world.running
        if good is None:
            assert len(weights) == 1  # no version to roll back to; the routers wait until this one is verified
        else:
            assert world.status.stable is not None
            assert world.status.stable.route == good


def play(world: World, move: str, value: Any) -> float:
    """Make a move; return the seconds that it takes."""
    if move == "request":
        world.request(value)
    elif move == "prepare":
        world.request(value)
        world.ready.add(value)
        world.sync()
    elif move == "image":
        world.change(policy__image=value)
    elif move == "prepare candidate" and world.status.candidate is not None:
        world.ready.add(world.candidate)
        world.sync()
    elif move == "follow":
        world.sync()
    elif move in ("ready", "unready"):
        (world.ready.add if move == "ready" else world.ready.discard)(value)
    elif move in ("wrong", "right"):
        (world.wrong.add if move == "wrong" else world.wrong.discard)(value)
    elif move == "sync":
        for i in (0, 1):
            if value in (i, 2):
                world.followed[i] = world.status.routes_generation
    elif move == "count" and world.status.candidate is not None and world.status.stable is not None:
        good = counts(20_000) if value == "good" else BROKEN[value]
        world.counted = {world.status.stable.route: counts(15_000), world.candidate: good}
    elif move in ("hold", "pause", "attempt"):
        key = {"hold": "maxWeight", "pause": "paused", "attempt": "attempt"}[move]
        world.spec = world.spec | {"rollout": {**world.spec["rollout"], key: value}}
    return float(value) if move == "wait" else 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(MOVES, max_size=30))
def test_a_good_version_is_served_in_the_end_from_any_state(moves: list[tuple[str, Any]]) -> None:
    world = World(spec())
    for move, value in moves:
        world.step(play(world, move, value))
    world.wrong.clear()
    world.request("v4", rollout__maxWeight=100, rollout__paused=False)
    for _ in range(12):
        world.settle(*NAMES, "v4", passes=2)
        if world.status.candidate is not None and world.status.stable is not None:
            world.count_equal()
        world.step(61)
        world.sync()
    world.step(400)
    assert world.weights() == {"v4": 100}
    assert world.running == {"v4"}
