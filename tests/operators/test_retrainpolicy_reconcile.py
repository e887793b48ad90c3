"""The RetrainPolicy reconciler: when it retrains, what it waits for, and what it does with the result."""

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

from operators.reconciliation import Action, Apply, Create, Delete, Reconciliation, Refusal
from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus
from operators.retrainpolicy.observe import Desired, Observed, ObservedLook, ObservedRun
from operators.retrainpolicy.reconcile import next_moment, reconcile

START = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "operators" / "06-retrain.yaml"
DIGEST = "d" * 64


def spec(**changes: Any) -> dict[str, Any]:
    example: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["spec"]
    example.pop("schedule")
    return example | changes


@dataclass
class World:
    """One policy, its objects and a clock."""

    spec: dict[str, Any] = field(default_factory=spec)
    status: RetrainPolicyStatus = field(default_factory=RetrainPolicyStatus)
    now: datetime = START
    stable: str | None = "v1"
    runs: dict[str, ObservedRun] = field(default_factory=dict)
    looks: dict[str, ObservedLook] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    promoted: list[dict[str, Any]] = field(default_factory=list)
    refused: Refusal | None = None
    most_at_once: int = 0

    def step(self, seconds: float = 0) -> Reconciliation[RetrainPolicyStatus]:
        self.now += timedelta(seconds=seconds)
        parsed = RetrainPolicySpec.model_validate(self.spec)
        desired = Desired("nightly", "shop", "u-1", 1, START, parsed, self.status)
        observed = Observed(True, self.stable, tuple(self.runs.values()), tuple(self.looks.values()), self.refused)
        outcome = reconcile(observed, desired, self.now)
        self.status = outcome.status
        for action in outcome.actions:
            self.act(action)
        self.most_at_once = max(self.most_at_once, sum(not run.ended for run in self.runs.values()))
        return outcome

    def act(self, action: Action) -> None:
        match action:
            case Create(manifest):
                name = manifest["metadata"]["name"]
                if manifest["kind"] == "Job":
                    self.looks.setdefault(name, ObservedLook(name, f"u-{name}"))
                else:
                    self.created.append(manifest)
                    self.runs.setdefault(name, ObservedRun(name, f"u-{name}", self.now))
            case Apply(manifest):
                self.promoted.append(manifest["spec"]["model"])
            case Delete(_, kind, name, _):
                (self.looks if kind == "Job" else self.runs).pop(name)

    def finish_look(self, new: int, due: bool = False, **more: Any) -> None:
        """Let the current look succeed, then run a pass."""
        output = json.dumps({"new": new, "watermark": None, "due": due, "reason": "because", "trigger": None, **more})
        self.looks = {name: ObservedLook(name, one.uid, "succeeded", output) for name, one in self.looks.items()}
        self.step(1)

    def finish_run(self, phase: str = "Complete", **more: Any) -> None:
        """Let the current run end, then run a pass."""
        for name, run in self.runs.items():
            if not run.ended:
                self.runs[name] = ObservedRun(name, run.uid, run.created, phase, **more)
        self.step(1)

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(one for one in self.status.conditions if one.type == kind)
        return found.status, found.reason


def training(**changes: Any) -> World:
    world = World(spec(**changes))
    world.step()
    world.finish_look(30_000, True, trigger="new interactions")
    assert world.status.phase == "Training"
    return world


def test_it_waits_for_a_service_with_a_stable_version() -> None:
    world = World(stable=None)
    world.step()
    assert world.condition("Ready") == ("False", "NoStableVersion")
    assert world.looks == {}


def test_looks_recur_and_the_status_says_what_the_policy_waits_for() -> None:
    world = World()
    world.step()
    assert (world.status.phase, list(world.looks)) == ("Looking", ["nightly-look-1"])
    world.finish_look(500, reason="500 new judged interactions: waiting for 1500 more")
    assert world.status.waiting_for == "500 new judged interactions: waiting for 1500 more"
    assert world.condition("Training") == ("False", "NotDue")
    assert world.looks == {}
    world.step(800)
    assert world.looks == {}
    world.step(100)
    assert list(world.looks) == ["nightly-look-2"]


def test_a_failed_look_is_reported_and_retried() -> None:
    world = World()
    world.step()
    world.looks = {n: ObservedLook(n, one.uid, "failed", "lake: 'x': no such folder") for n, one in world.looks.items()}
    world.step(1)
    assert world.condition("Ready") == ("False", "LookFailed")
    assert "no such folder" in world.status.waiting_for
    world.step(60)
    assert world.looks == {}
    world.step(900)
    assert list(world.looks) == ["nightly-look-2"]


def test_a_retraining_is_an_irpojob_of_the_template_with_the_stable_version_and_the_log() -> None:
    world = training()
    job = world.created[0]
    assert (job["kind"], job["metadata"]["name"]) == ("IRPOJob", "nightly-1")
    config = job["spec"]["config"]
    assert config["base"] == "/training/models-registry/models/v1"
    assert config["feedback"]["source"] == "lake"
    assert config["feedback"]["path"] == "/training/lake"
    assert config["feedback"]["until"] == "2026-11-25T12:00:01Z"
    assert job["spec"]["gates"] == {"min_auc": 0.6}
    assert job["metadata"]["labels"]["team"] == "ads"
    assert job["metadata"]["ownerReferences"][0]["uid"] == "u-1"


def test_a_result_that_passes_becomes_the_services_model() -> None:
    world = training()
    world.finish_run(best_epoch=1, model="nightly-1-model", digest=DIGEST)
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
def test_a_result_that_does_not_pass_changes_nothing(phase: str, more: dict[str, Any], outcome: str) -> None:
    world = training()
    world.finish_run(phase, **more)
    assert world.promoted == []
    assert world.status.last_result is not None
    assert world.status.last_result.outcome == outcome


def test_a_policy_that_does_not_promote_only_names_the_result() -> None:
    world = training(promote=False)
    world.finish_run(best_epoch=1, model="nightly-1-model", digest=DIGEST)
    assert world.promoted == []
    assert world.status.last_result is not None
    assert (world.status.last_result.model, world.status.last_result.digest) == ("nightly-1-model", DIGEST)


def test_the_cooldown_begins_at_the_start_of_the_retraining() -> None:
    world = training()
    world.finish_run(best_epoch=0)
    world.step(5 * 3600)
    assert "cooldown until 2026-11-25 18:00" in world.status.waiting_for
    world.step(3600)
    assert world.status.phase == "Looking"


def test_a_paused_policy_starts_nothing_and_lets_a_retraining_continue() -> None:
    world = training()
    world.spec["paused"] = True
    world.step(1)
    assert world.status.phase == "Training"
    world.finish_run(best_epoch=1, model="m", digest=DIGEST)
    world.step(100_000)
    assert (world.status.phase, world.looks) == ("Paused", {})


def test_the_schedule_requests_a_retraining_if_enough_is_new() -> None:
    world = World(spec(schedule={"cron": "0 3 * * *", "timeZone": "Europe/Paris"}))
    world.step()
    assert world.status.next_scheduled == datetime(2026, 11, 26, 2, 0, tzinfo=UTC)
    world.finish_look(2500)
    assert world.status.phase == "Waiting"
    world.step(14 * 3600)
    assert world.status.asked == "schedule"
    world.finish_look(2500)
    assert world.status.active == "nightly-1"
    assert world.status.active_trigger == "schedule"

    world = World(spec(schedule={"cron": "0 3 * * *", "timeZone": "Europe/Paris"}))
    world.step(14 * 3600)
    world.finish_look(10)
    assert (world.status.active, world.status.asked) == (None, "")


def test_a_schedule_follows_its_time_zone_when_clocks_change() -> None:
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
        ("0 3 * * *", "Mars/Base", "'Mars/Base' is not a time zone"),
    ],
)
def test_an_invalid_schedule_is_reported(cron: str, zone: str, remedy: str) -> None:
    world = World(spec(schedule={"cron": cron, "timeZone": zone}))
    reasons = [event.reason for _ in range(2) for event in world.step(1).events]
    assert reasons == ["BadSchedule"], "one event"
    assert world.condition("Ready") == ("False", "BadSchedule")
    assert remedy in world.status.waiting_for


def test_a_paused_policy_is_shown_as_paused_even_without_a_stable_version() -> None:
    world = World(spec(paused=True), stable=None)
    world.step()
    assert world.status.phase == "Paused"


def test_a_refused_object_stays_reported_until_it_is_created() -> None:
    world = World(refused=Refusal("Job nightly-look-1: another object has this name", permanent=False))
    reasons = [event.reason for _ in range(3) for event in world.step(1).events]
    assert reasons.count("ChildRefused") == 1
    assert world.condition("Ready") == ("False", "ChildRefused")
    world.refused = None
    world.step(1)
    assert world.condition("Ready") == ("True", "Watching")


def test_history_keeps_the_newest() -> None:
    world = World(spec(history={"complete": 1, "failed": 0}, triggers={"cooldown_hours": 0}))
    for _ in range(3):
        while world.status.active is None:
            world.step(1000)
            if world.looks:
                world.finish_look(30_000, True, trigger="new interactions")
        world.finish_run(best_epoch=1, model="m", digest=DIGEST)
    world.step(1)
    assert list(world.runs) == ["nightly-3"]


def test_an_operator_that_died_between_status_and_action_creates_the_job() -> None:
    world = training()
    world.runs.clear()
    world.step(1)
    assert list(world.runs) == ["nightly-1"]
    assert world.created[0] == world.created[1]


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
def test_after_any_events_one_retraining_runs_at_a_time_and_only_passing_results_are_promoted(
    moves: list[tuple[str, Any]],
) -> None:
    world = World(spec(schedule={"cron": "0 3 * * *", "timeZone": "UTC"}))
    passed = 0
    for move, value in moves:
        if move == "found":
            world.finish_look(value, value > 20_000, trigger="new interactions" if value > 20_000 else None)
        elif move == "garbage":
            world.looks = {n: ObservedLook(n, one.uid, "succeeded", value) for n, one in world.looks.items()}
        elif move == "failed":
            world.looks = {n: ObservedLook(n, one.uid, "failed", "why") for n, one in world.looks.items()}
        elif move == "ends":
            passed += value == "Complete" and any(not run.ended for run in world.runs.values())
            world.finish_run(value, best_epoch=1, model="m", digest=DIGEST)
        elif move == "paused":
            world.spec["paused"] = value
        elif move == "stable":
            world.stable = value
        elif move == "lost":
            world.looks.clear()
        runs = world.status.runs
        world.step(value if move == "wait" else 1)
        assert world.most_at_once <= 1
        assert len(world.looks) <= 1
        assert len(world.promoted) == passed
        assert world.status.waiting_for
        if world.spec.get("paused") and move == "paused":
            assert world.status.runs == runs
        finished = [run for run in world.runs.values() if run.ended]
        assert len([run for run in finished if run.phase == "Complete"]) <= 6
    names = [job["metadata"]["name"] for job in world.created]
    assert len(set(names)) == world.status.runs
