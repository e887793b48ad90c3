"""The loop drill: its traffic passes through the real workers; promotion, refusal and rollback are as recorded."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from benchmarks.loop import drill as loop
from benchmarks.loop.traffic import Server, Traffic, put, revenue, run_workers, shuffled
from inference.policy import Policy
from mechanism.canary.cohorts import total
from mechanism.canary.limits import Limits
from mechanism.objective import Penalty
from serving.canary.lake_cohorts import LakeCohorts
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent, Click, Interaction
from streaming.lake import TrainingSet
from streaming.topics import all_topics
from trainers import retraining
from trainers.artifacts.registry import Registry
from trainers.gates.decision import Decision, Gate
from trainers.retraining import RetrainOutcome

BEGIN = datetime.now(UTC) - timedelta(days=3)
DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddedLog, list[AnyEvent]]:
    """A log with sixty answers of the shipped model and their clicks."""
    log = EmbeddedLog(tmp_path_factory.mktemp("log"))
    log.create(all_topics())
    traffic = Traffic.begin(BEGIN, 20, 20, 0)
    return log, traffic.serve(Server(Policy.load("tiny"), DIGEST), 60, log)


def answers(events: list[AnyEvent]) -> list[Interaction]:
    return [event for event in events if isinstance(event, Interaction)]


def clicks(events: list[AnyEvent]) -> list[Click]:
    return [event for event in events if isinstance(event, Click)]


def test_event_time_advances_and_some_ads_are_clicked(served: tuple[EmbeddedLog, list[AnyEvent]]) -> None:
    _, events = served
    times = [answer.occurred_at for answer in answers(events)]
    assert len(times) == 60
    assert times == sorted(times)
    assert 0 < len(clicks(events)) < sum(len(answer.shown) for answer in answers(events))
    assert sum(revenue(events)) == sum(click.price_micros for click in clicks(events)) / 10_000
    assert all(answer.answer_s > 0 for answer in answers(events))
    assert any(answer.consent for answer in answers(events))
    assert all((answer.reader is not None) == answer.consent for answer in answers(events))


def test_the_workers_and_the_guard_process_every_event(
    served: tuple[EmbeddedLog, list[AnyEvent]], tmp_path: Path
) -> None:
    log, events = served
    run_workers(log, str(tmp_path / "lake"), events, 1_800.0, within_s=60.0)
    reader = TrainingSet(str(tmp_path / "lake"))
    totals = reader.totals()
    assert (totals.answers, totals.judged, totals.clicks) == (60, 60, len(clicks(events)))
    assert reader.count() == sum(answer.consent for answer in answers(events))
    end = events[-1].occurred_at + timedelta(minutes=30)
    cohorts = LakeCohorts(str(tmp_path / "lake"), 1_800.0, Penalty(), lambda: end)
    cohorts.refresh()
    seen = total(cohorts.of(DIGEST).values())
    assert (seen.answers, seen.clicks) == (60, len(clicks(events)))
    assert seen.revenue == sum(click.price_micros for click in clicks(events))


def test_shuffled_clicks_keep_their_number_and_change_their_ads(
    served: tuple[EmbeddedLog, list[AnyEvent]], tmp_path: Path
) -> None:
    _, events = served
    poisoned = shuffled(events, np.random.default_rng(0))
    assert answers(poisoned) == answers(events)
    assert len({click.click_id for click in clicks(poisoned)}) == len(clicks(events))
    assert {click.click_id for click in clicks(poisoned)} != {click.click_id for click in clicks(events)}
    log = EmbeddedLog(tmp_path / "log")
    log.create(all_topics())
    put(log, poisoned)  # every event is valid


def almost_the_same(tmp_path: Path, number: int) -> Path:
    """Return the shipped model with minimally changed weights, so that its digest differs."""
    policy = Policy.load("tiny")
    next(iter(policy.model.parameters())).data += 1e-7 * number
    folder = tmp_path / f"model-{number}"
    policy.save(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_passed_model_is_promoted_and_a_slow_one_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training alone is replaced: each version is the base model, and shuffled clicks fail the gates."""
    made: list[str] = []

    def retrained(config: Any, lake: str, registry: Registry, serving: str, *_: Any, **options: Any) -> RetrainOutcome:
        passed = options["reason"] != loop.POISONED
        made.append(lake)
        verdict: Any = "passed" if passed else "failed"
        decision = Decision((Gate("click_predictor", verdict, "made up", {}, {}),), config.gates)
        folder = almost_the_same(tmp_path, len(made))
        entry = registry.register(folder, base="tiny", parent=serving, gates=decision.to_dict())
        return RetrainOutcome(entry, decision, "nowhere")

    monkeypatch.setattr(retraining, "retrain", retrained)
    # revenue of so few answers is noise
    lenient = partial(Limits, max_revenue_loss=5.0, max_penalty_rise=50.0)
    for name, value in (("RETRAININGS", 1), ("EARLY", 50), ("LEAST", 60), ("Limits", lenient)):
        monkeypatch.setattr(loop, name, value)
    out = tmp_path / "loop.json"
    with pytest.raises(typer.Exit):  # no version earns more than the first
        loop.main(100, 30, 20, "tiny", None, 0, tmp_path / "drill", out)
    figures = json.loads(out.read_text())
    assert [version["decision"] for version in figures["versions"]] == ["first", "promoted", "refused", "rolled back"]
    kinds = [(change["kind"], change["version"], change["by"]) for change in figures["history"]]
    assert kinds == [
        ("start", "v0001", "drill"),
        ("promote", "v0002", "gates"),
        ("keep", "v0002", "guard"),
        ("promote", "v0004", "gates"),
        ("rollback", "v0004", "guard"),
    ]
    assert "took too long" in figures["history"][-1]["why"]
    assert figures["versions"][0]["served"]["answers"] == 100
    assert figures["checks"]["shuffled clicks are refused by the gates"]
    assert figures["checks"]["a version slowed down is rolled back"]
    assert not figures["passed"]
    assert made[1] != made[0] == made[2]
