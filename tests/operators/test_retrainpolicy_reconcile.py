"""When a policy trains anew, what it waits for, and what becomes of the result: the reconciler as a function."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.actions import Apply, Create, Delete, Outcome
from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus
from operators.retrainpolicy.observed import Desired, Observed, SeenLook, SeenRun
from operators.retrainpolicy.reconcile import next_moment, reconcile

START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "operators" / "06-retrain.yaml"
DIGEST = "d" * 64


def spec(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["spec"]
    made.pop("schedule")
    return made | changes


@dataclass
class World:
    """One policy, its children, and a clock."""

    spec: dict[str, Any] = field(default_factory=spec)
    status: RetrainPolicyStatus = field(default_factory=RetrainPolicyStatus)
    now: datetime = START
    stable: str | None = "v1"
    runs: dict[str, SeenRun] = field(default_factory=dict)
    looks: dict[str, SeenLook] = field(default_factory=dict)
    made: list[dict[str, Any]] = field(default_factory=list)
    promoted: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0

    def step(self, seconds: float = 0) -> Outcome[RetrainPolicyStatus]:
        self.now += timedelta(seconds=seconds)
        made = RetrainPolicySpec.model_validate(self.spec)
        desired = Desired("nightly", "shop", "u-1", 1, START, made, self.status)
        seen = Observed(True, self.stable, tuple(self.runs.values()), tuple(self.looks.values()))
        outcome = reconcile(seen, desired, self.now)
        self.status = outcome.status
        for action in outcome.actions:
            self.act(action)
        self.most_at_once = max(self.most_at_once, sum(not run.ended for run in self.runs.values()))
        return outcome

    def act(self, action: Any) -> None:
        match action:
            case Create(manifest):
                name = manifest["metadata"]["name"]
                if manifest["kind"] == "Job":
                    self.looks.setdefault(name, SeenLook(name, f"u-{name}"))
                else:
                    self.made.append(manifest)
                    self.runs.setdefault(name, SeenRun(name, f"u-{name}", self.now))
            case Apply(manifest):
                self.promoted.append(manifest["spec"]["model"])
            case Delete(_, kind, name, _):
                (self.looks if kind == "Job" else self.runs).pop(name)

    def found(self, new: int, due: bool = False, **more: Any) -> None:
        """The look that is under way ends."""
        words = json.dumps({"new": new, "watermark": None, "due": due, "reason": "told", "trigger": None, **more})
        self.looks = {name: SeenLook(name, one.uid, "succeeded", words) for name, one in self.looks.items()}
        self.step(1)

    def ends(self, phase: str = "Complete", **more: Any) -> None:
        """The run that is under way ends."""
        for name, run in self.runs.items():
            if not run.ended:
                self.runs[name] = SeenRun(name, run.uid, run.created, phase, **more)
        self.step(1)

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(one for one in self.status.conditions if one.type == kind)
        return found.status, found.reason


def training(**changes: Any) -> World:
    world = World(spec(**changes))
    world.step()
    world.found(30_000, True, trigger="new interactions")
    assert world.status.phase == "Training"
    return world


def test_it_waits_for_a_service_with_a_stable_version() -> None:
    world = World(stable=None)
    world.step()
    assert world.condition("Ready") == ("False", "NoStableVersion")
    assert world.looks == {}


def test_the_log_is_looked_at_again_and_again_and_the_status_says_what_is_waited_for() -> None:
    world = World()
    world.step()
    assert (world.status.phase, list(world.looks)) == ("Looking", ["nightly-look-1"])
    world.found(500, reason="500 new judged interactions: waiting for 1500 more")
    assert world.status.waiting_for == "500 new judged interactions: waiting for 1500 more"
    assert world.condition("Training") == ("False", "NotDue")
    assert world.looks == {}
    world.step(800)
    assert world.looks == {}
    world.step(100)
    assert list(world.looks) == ["nightly-look-2"]


def test_a_look_that_fails_is_told_and_tried_again() -> None:
    world = World()
    world.step()
    world.looks = {n: SeenLook(n, one.uid, "failed", "shards: 'x': no such folder") for n, one in world.looks.items()}
    world.step(1)
    assert world.condition("Ready") == ("False", "LookFailed")
    assert "no such folder" in world.status.waiting_for
    world.step(60)
    assert world.looks == {}
    world.step(900)
    assert list(world.looks) == ["nightly-look-2"]


def test_a_retraining_that_is_due_is_an_irpojob_from_the_template_on_the_stable_version_and_the_log() -> None:
    world = training()
    made = world.made[0]
    assert (made["kind"], made["metadata"]["name"]) == ("IRPOJob", "nightly-1")
    config = made["spec"]["config"]
    assert config["base"] == "/training/models-registry/models/v1"
    assert config["feedback"]["source"] == "shards"
    assert config["feedback"]["path"] == "/training/shards"
    assert config["feedback"]["until"] == "2026-11-25T12:00:01Z"
    assert made["spec"]["gates"] == {"min_auc": 0.6}
    assert made["metadata"]["labels"]["team"] == "ads"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u-1"


def test_a_result_that_is_better_is_offered_to_the_service() -> None:
    world = training()
    world.ends(best_epoch=1, model="nightly-1-model", digest=DIGEST)
    assert world.promoted == [{"name": "nightly-1-model", "digest": DIGEST}]
    assert world.status.last_result is not None
    assert world.status.last_result.outcome == "Passed"
    assert world.condition("Training") == ("False", "Cooldown")


@pytest.mark.parametrize(
    ("phase", "more", "outcome"),
    [
        ("Complete", {"best_epoch": 0}, "Refused"),
        ("Complete", {"best_epoch": 1, "model": "m", "digest": DIGEST, "refused_by": "latency: 2 times"}, "Refused"),
        ("Failed", {"message": "guard collapse"}, "Failed"),
    ],
)
def test_a_result_that_is_no_better_changes_nothing(phase: str, more: dict[str, Any], outcome: str) -> None:
    world = training()
    world.ends(phase, **more)
    assert world.promoted == []
    assert world.status.last_result is not None
    assert world.status.last_result.outcome == outcome


def test_a_policy_that_does_not_promote_names_the_result_only() -> None:
    world = training(promote=False)
    world.ends(best_epoch=1, model="nightly-1-model", digest=DIGEST)
    assert world.promoted == []
    assert world.status.last_result is not None
    assert (world.status.last_result.model, world.status.last_result.digest) == ("nightly-1-model", DIGEST)


def test_the_cooldown_begins_with_the_retraining() -> None:
    world = training()
    world.ends(best_epoch=0)
    world.step(5 * 3600)
    assert "cooldown until 2026-11-25 18:00" in world.status.waiting_for
    world.step(3600)
    assert world.status.phase == "Looking"


def test_a_pause_begins_nothing_and_lets_what_runs_go_on() -> None:
    world = training()
    world.spec["paused"] = True
    world.step(1)
    assert world.status.phase == "Training"
    world.ends(best_epoch=1, model="m", digest=DIGEST)
    world.step(100_000)
    assert (world.status.phase, world.looks) == ("Paused", {})


def test_the_schedule_asks_and_enough_must_be_new() -> None:
    world = World(spec(schedule={"cron": "0 3 * * *", "timeZone": "Europe/Paris"}))
    world.step()
    assert world.status.next_scheduled == datetime(2026, 11, 26, 2, 0, tzinfo=UTC)
    world.found(2500)
    assert world.status.phase == "Waiting"
    world.step(14 * 3600)
    assert world.status.asked == "schedule"
    world.found(2500)
    assert world.status.active == "nightly-1"
    assert world.status.active_trigger == "schedule"

    world = World(spec(schedule={"cron": "0 3 * * *", "timeZone": "Europe/Paris"}))
    world.step(14 * 3600)
    world.found(10)
    assert (world.status.active, world.status.asked) == (None, "")


def test_a_schedule_keeps_to_its_time_zone_when_clocks_change() -> None:
    before = datetime(2026, 10, 24, 12, tzinfo=UTC)
    first = next_moment("0 3 * * *", "Europe/Paris", before)
    assert (first, next_moment("0 3 * * *", "Europe/Paris", first)) == (
        datetime(2026, 10, 25, 2, tzinfo=UTC),
        datetime(2026, 10, 26, 2, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("cron", "zone", "remedy"),
    [
        ("61 * * * *", "UTC", "its minute must be 0 to 59"),
        ("0 25 * * *", "UTC", "its hour must be 0 to 23"),
        ("0 0 31 2 *", "UTC", "its day-of-month must be 1 to 31 and a day of its month"),
        ("0 3 * * *", "Mars/Base", "'Mars/Base' is no time zone"),
    ],
)
def test_a_schedule_that_never_comes_is_told(cron: str, zone: str, remedy: str) -> None:
    world = World(spec(schedule={"cron": cron, "timeZone": zone}))
    said = [event.reason for _ in range(2) for event in world.step(1).events]
    assert said == ["BadSchedule"], "once, as an event"
    assert world.condition("Ready") == ("False", "BadSchedule")
    assert remedy in world.status.waiting_for


def test_a_pause_shows_whatever_else_is_missing() -> None:
    world = World(spec(paused=True), stable=None)
    world.step()
    assert world.status.phase == "Paused"


def test_history_keeps_the_newest() -> None:
    world = World(spec(history={"complete": 1, "failed": 0}, triggers={"cooldown_hours": 0}))
    for _ in range(3):
        while world.status.active is None:
            world.step(1000)
            if world.looks:
                world.found(30_000, True, trigger="new interactions")
        world.ends(best_epoch=1, model="m", digest=DIGEST)
    world.step(1)
    assert list(world.runs) == ["nightly-3"]


def test_an_operator_that_died_between_status_and_action_makes_the_job() -> None:
    world = training()
    world.runs.clear()
    world.step(1)
    assert list(world.runs) == ["nightly-1"]
    assert world.made[0] == world.made[1]


MOVES = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 901, 30_000, 90_000])),
    st.tuples(st.just("found"), st.sampled_from([0, 5000, 30_000])),
    st.tuples(st.just("garbage"), st.sampled_from(["", "{", "[]", '{"new": "many"}'])),
    st.tuples(st.just("failed"), st.none()),
    st.tuples(st.just("ends"), st.sampled_from(["Complete", "Failed"])),
    st.tuples(st.just("paused"), st.booleans()),
    st.tuples(st.just("stable"), st.sampled_from([None, "v1", "v2"])),
    st.tuples(st.just("lost"), st.none()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(MOVES, max_size=50))
def test_whatever_happens_one_retraining_runs_at_a_time_and_only_better_results_are_promoted(
    moves: list[tuple[str, Any]],
) -> None:
    world = World(spec(schedule={"cron": "0 3 * * *", "timeZone": "UTC"}))
    better = 0
    for what, value in moves:
        if what == "found":
            world.found(value, value > 20_000, trigger="new interactions" if value > 20_000 else None)
        elif what == "garbage":
            world.looks = {n: SeenLook(n, one.uid, "succeeded", value) for n, one in world.looks.items()}
        elif what == "failed":
            world.looks = {n: SeenLook(n, one.uid, "failed", "why") for n, one in world.looks.items()}
        elif what == "ends":
            better += value == "Complete" and any(not run.ended for run in world.runs.values())
            world.ends(value, best_epoch=1, model="m", digest=DIGEST)
        elif what == "paused":
            world.spec["paused"] = value
        elif what == "stable":
            world.stable = value
        elif what == "lost":
            world.looks.clear()
        begun = world.status.runs
        world.step(value if what == "wait" else 1)
        assert world.most_at_once <= 1
        assert len(world.looks) <= 1
        assert len(world.promoted) == better
        assert world.status.waiting_for
        if world.spec.get("paused") and what == "paused":
            assert world.status.runs == begun
        finished = [run for run in world.runs.values() if run.ended]
        assert len([run for run in finished if run.phase == "Complete"]) <= 6
    names = [made["metadata"]["name"] for made in world.made]
    assert len(set(names)) == world.status.runs
