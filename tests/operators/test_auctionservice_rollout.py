"""Rollout of a new version, step by step, and its rollback; the reconciler is called as a function."""

from __future__ import annotations

import json

import pytest

from operators.auctionservice.observe import ROUTES_ANNOTATION
from operators.reconciliation import Annotate
from operators.resources.auctionservice import AuctionServiceStatus
from serving.policies.route_file import parse_routes

from .service_world import BROKEN, World, canary, counts, digest, serving, spec


def test_the_first_version_is_stable_once_every_router_has_verified_it() -> None:
    world = World(spec())
    world.step()
    assert (world.status.phase, world.weights()) == ("Pending", {"v1": 100})
    assert world.condition("Available") == ("False", "NoStableVersion")
    world.ready.add("v1")
    world.step(5)
    assert world.condition("Progressing") == ("True", "RoutersBehind")
    world.sync()
    world.step(5)
    assert world.status.stable is not None
    assert (world.status.stable.name, world.status.phase) == ("v1", "Serving")
    assert world.condition("Available") == ("True", "Serving")


def test_the_first_version_with_other_weights_never_becomes_stable() -> None:
    world = World(spec(), wrong={"v1"})
    world.settle("v1", passes=8)
    assert world.status.stable is None
    assert world.condition("Progressing") == ("True", "NotVerified")


def test_a_new_version_gets_servers_first_and_no_traffic() -> None:
    world = serving()
    world.request("v2")
    world.step(5)
    assert world.running == {"v1", "v2"}
    assert (world.status.phase, world.weights()) == ("Starting", {"v1": 100, "v2": 0})
    world.sync()
    world.step(5)
    assert world.condition("Progressing") == ("True", "PolicyNotReady")
    assert world.weights()["v2"] == 0


def test_a_version_takes_over_step_by_step_and_the_previous_one_is_kept_for_a_while() -> None:
    world = canary()
    assert world.weights() == {"v1": 90, "v2": 10}
    world.count_equal()
    world.step(30)
    assert "28 s more" in world.message("Progressing")
    world.step(40)
    assert world.weights() == {"v1": 50, "v2": 50}
    world.sync()
    world.count_equal()
    world.step(61)
    assert world.weights() == {"v2": 100}
    assert world.status.stable is not None
    assert world.status.stable.digest == digest("v2")
    assert world.running == {"v1", "v2"}  # kept for a quick return
    world.sync()
    world.step(301)
    assert world.running == {"v2"}
    assert world.status.retiring == []


def test_a_step_waits_for_answers_to_compare_and_for_every_router() -> None:
    world = canary()
    world.count(v1=counts(500), v2=counts(99))
    world.step(1000)
    assert world.weights()["v2"] == 10
    assert "1 more answers" in world.message("Progressing")
    world.count(v1=counts(500), v2=counts(100))
    world.followed[1] -= 1
    world.step(10)
    assert world.weights()["v2"] == 10
    world.sync()
    world.step(10)
    assert world.weights()["v2"] == 50


def test_a_router_whose_metrics_cannot_be_read_blocks_a_version_and_is_named() -> None:
    world = serving()
    world.request("v2")
    world.ready.add("v2")
    world.silent = {1}
    for _ in range(4):
        world.step(5)
        world.sync()
    unread = "the figures of 1 of 2 routers cannot be read, for example those of ads-router-1 at"
    assert unread in world.message("Progressing")
    assert world.events.count("RoutersBehind") == 1
    assert world.weights() == {"v1": 100, "v2": 0}
    world.silent = set()
    world.settle("v2")
    assert world.weights() == {"v1": 90, "v2": 10}


def test_a_router_that_is_behind_is_annotated_in_the_pass_after_the_change() -> None:
    world = serving()
    world.request("v2")
    assert annotated(world) == []
    generation = str(world.status.routes_generation)
    assert annotated(world) == [(f"ads-router-{i}", {ROUTES_ANNOTATION: generation}) for i in (0, 1)]
    assert annotated(world) == [], "once is enough"
    world.sync()
    assert annotated(world) == []


def annotated(world: World) -> list[tuple[str, dict[str, str]]]:
    """Run a pass; return the annotations that it sets on routers."""
    return [(one.name, one.annotations) for one in world.step(5).actions if isinstance(one, Annotate)]


def test_the_last_step_lasts_until_the_version_is_safe() -> None:
    world = canary()
    world.count(v1=counts(1_000), v2=counts(110))
    world.step(61)
    assert world.weights() == {"v1": 50, "v2": 50}
    world.sync()
    world.step(600)
    assert world.weights() == {"v1": 50, "v2": 50}
    assert "the next one needs more certainty: " in world.message("Progressing")
    verdicts = {one.figure: one.verdict for one in world.status.comparisons}
    assert verdicts["revenue"] == "keep going"
    world.count_equal()
    world.step(5)
    assert world.weights() == {"v2": 100}
    assert world.status.comparisons == []


def test_a_version_that_stays_undecided_is_promoted_when_the_patience_ends() -> None:
    world = canary(rollout__guards={"minAnswers": 100, "patienceSeconds": 900})
    world.count(v1=counts(1_000), v2=counts(110))
    world.step(61)
    world.sync()
    world.step(899)
    assert world.weights() == {"v1": 50, "v2": 50}
    world.step(1)
    assert world.weights() == {"v2": 100}


def test_the_comparison_continues_over_the_steps_and_restarts_with_the_next_candidate() -> None:
    world = canary()
    since = world.status.canary_since
    assert since is not None
    world.count_equal()
    world.step(61)
    assert (world.status.step, world.status.canary_since) == (1, since)
    world.request("v3")
    world.settle("v3")
    assert world.status.canary_since is not None
    assert world.status.canary_since > since


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_guard_rolls_back_in_the_same_pass(reason: str) -> None:
    world = canary()
    world.count(v1=counts(15_000), v2=BROKEN[reason])
    world.step(5)
    assert world.weights() == {"v1": 100}
    assert world.status.phase == "RolledBack"
    assert world.status.rejected is not None
    assert (world.status.rejected.name, world.status.rejected.reason) == ("v2", reason)
    assert world.condition("RolledBack") == ("True", reason)
    assert world.warnings == [reason]
    assert "v2" in world.running  # until no router can send it a question
    world.sync()
    world.settle(passes=3)
    assert world.running == {"v1"}
    assert (world.status.phase, world.weights()) == ("RolledBack", {"v1": 100})


def test_differences_within_chance_break_no_guard() -> None:
    world = canary()
    world.count(v1=counts(3_000, failed=10), v2=counts(60, failed=2, slow=5, clicks=11))
    world.step(5)
    assert world.weights() == {"v1": 90, "v2": 10}
    figures = world.status.candidate_figures
    assert figures is not None
    assert (figures.answers, figures.error_rate) == (60, 0.0333)


def test_a_rejected_version_is_retried_only_with_another_attempt() -> None:
    world = canary()
    world.count(v1=counts(15_000), v2=BROKEN["ErrorRate"])
    world.step(5)
    world.settle(passes=5)
    assert world.status.candidate is None
    world.spec["rollout"]["attempt"] = 1
    world.settle(passes=4)
    assert world.status.candidate is not None
    assert world.weights() == {"v1": 90, "v2": 10}


def test_another_version_can_follow_a_rejected_one() -> None:
    world = canary()
    world.count(v1=counts(15_000), v2=BROKEN["ErrorRate"])
    world.step(5)
    world.request("v3")
    world.settle("v3")
    assert world.weights() == {"v1": 90, "v3": 10}
    assert world.condition("RolledBack") == ("False", "NoneRejected")


def test_a_version_that_is_not_ready_in_time_or_has_other_weights_is_rejected() -> None:
    for wrong, reason in ((set[str](), "PolicyNotReady"), ({"v2"}, "NotVerified")):
        world = serving(rollout__readySeconds=100)
        world.wrong = wrong
        world.request("v2")
        world.settle(*wrong)
        world.step(101)
        assert world.status.rejected is not None
        assert world.status.rejected.reason == reason
        assert world.warnings == [reason]
        assert world.weights() == {"v1": 100}


def test_servers_that_stay_unready_roll_the_candidate_back() -> None:
    world = canary()
    world.ready.discard("v2")
    world.step(5)
    assert world.status.candidate is not None  # perhaps just for a moment
    world.step(31)
    assert world.status.rejected is not None
    assert world.status.rejected.reason == "Unready"
    assert world.weights() == {"v1": 100}


def test_max_weight_holds_a_version_at_a_share_until_it_is_raised() -> None:
    world = canary(rollout__maxWeight=30)
    world.count_equal()
    world.step(61)
    assert (world.status.phase, world.weights()) == ("Held", {"v1": 70, "v2": 30})
    world.sync()
    world.count_equal()
    world.step(1000)
    assert world.weights()["v2"] == 30
    world.spec["rollout"]["maxWeight"] = 100
    world.step(5)
    assert (world.status.phase, world.weights()) == ("Canary", {"v1": 50, "v2": 50})


def test_a_max_weight_of_0_loads_and_verifies_only() -> None:
    world = canary(rollout__maxWeight=0)
    assert (world.status.phase, world.weights()) == ("Held", {"v1": 100, "v2": 0})


def test_a_pause_stops_the_steps_but_not_the_guards() -> None:
    world = canary()
    world.spec["rollout"]["paused"] = True
    world.count_equal()
    world.step(1000)
    assert (world.status.phase, world.weights()) == ("Paused", {"v1": 90, "v2": 10})
    world.count(v1=counts(15_000), v2=BROKEN["ErrorRate"])
    world.step(5)
    assert world.weights() == {"v1": 100}


def test_setting_the_model_back_ends_a_rollout() -> None:
    world = canary()
    world.request("v1")
    world.step(1)
    assert (world.status.phase, world.weights()) == ("Serving", {"v1": 100})
    assert "Aborted" in world.events
    assert world.status.rejected is None


def test_without_steps_a_verified_version_gets_all_traffic_at_once() -> None:
    world = serving(rollout__steps=[])
    world.request("v2")
    world.settle("v2")
    assert world.weights() == {"v2": 100}


def test_one_name_for_two_versions_is_refused() -> None:
    world = serving()
    world.spec = world.spec | {"model": {"name": "v1", "digest": digest("other")}}
    world.settle()
    assert world.weights() == {"v1": 100}
    assert world.condition("Progressing") == ("False", "NameTaken")


def test_routers_can_read_the_route_file() -> None:
    world = canary()
    world.step(1)
    text = world.objects["ConfigMap", "ads-routes"]["data"]["routes.json"]
    routes = parse_routes(text.encode(), "routes.json")
    assert routes.generation == world.status.routes_generation
    assert [(v.name, v.weight, v.server) for v in routes.versions] == [
        ("v1", 90, f"ads-policy-{digest('v1')[:12]}.shop.svc:8001"),
        ("v2", 10, f"ads-policy-{digest('v2')[:12]}.shop.svc:8001"),
    ]
    assert json.loads(text)["versions"][0]["digest"] == digest("v1")


def test_a_restarted_operator_continues_from_the_status() -> None:
    world = canary()
    world.status = AuctionServiceStatus.model_validate_json(world.status.model_dump_json(by_alias=True))
    world.count_equal()
    world.step(61)
    assert world.weights() == {"v1": 50, "v2": 50}
