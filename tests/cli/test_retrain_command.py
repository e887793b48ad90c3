"""`llm-auction retrain` looks at real shards, tells people and programs what it waits for, and changes nothing then."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks.streaming.event_samples import BEGINNING, interaction
from cli.main import app
from cli.retrain import record, verdicts
from inference.models import resolve
from mechanism.statistics import Interval
from serving.canary.deployment import Deployment
from serving.policies.route_file import Version
from streaming.events import JudgedAd, Judgement
from streaming.shards import Row
from tests.trainers.logged_traffic import write
from trainers.artifacts.registry import Registry
from trainers.config import GateSettings, TriggerConfig
from trainers.gates.decision import Figures, decide
from trainers.retraining import Observed, RetrainOutcome, due


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    found = Registry(tmp_path / "runs")
    found.register(resolve("tiny")[0], base="tiny")
    return found


@pytest.fixture
def shards(tmp_path: Path) -> str:
    events = [interaction(n, BEGINNING + timedelta(seconds=n)) for n in range(30)]
    url = str(tmp_path / "shards")
    write(
        url,
        [
            Row(
                event,
                Judgement(
                    occurred_at=event.occurred_at + timedelta(seconds=9),
                    auction_id=event.auction_id,
                    answered_at=event.occurred_at,
                    window_s=60,
                    judge="rules",
                    judge_version="1",
                    ads=tuple(JudgedAd(ad_id=s.ad_id, clicked=False) for s in event.shown),
                ),
            )
            for event in events
        ],
    )
    return url


def call(registry: Registry, shards: str, *words: str) -> Result:
    work = Path(registry.url).parent / "work"
    where = ["--shards", shards, "--models", registry.url, "--work", str(work)]
    return CliRunner().invoke(app, ["retrain", *where, *words])


def test_it_says_what_it_waits_for_and_begins_nothing(registry: Registry, shards: str) -> None:
    told = call(registry, shards, "--serving", "v0001")
    assert told.exit_code == 0, told.output
    words = " ".join(told.output.split())
    assert "Retraining of v0001" in words
    assert "waiting for 970" in " ".join(words.replace("│", " ").split())
    assert not (Path(registry.url).parent / "work" / "001").exists()
    assert len(registry.list()) == 1


def test_programs_read_one_object_on_one_line(registry: Registry, shards: str) -> None:
    told = call(registry, shards, "--serving", "latest", "--json", "--set", "triggers.at_least=10")
    assert told.exit_code == 0, told.output
    (line,) = told.output.splitlines()
    found = json.loads(line)
    assert found["serving"] == "v0001"
    assert found["observed"]["new"] == 30
    assert found["observed"]["watermark"].startswith("2026-11-24")
    assert found["decision"]["due"] is False
    assert found["outcome"] is None


def test_the_serving_version_may_come_from_the_route_file(registry: Registry, shards: str, tmp_path: Path) -> None:
    routes = tmp_path / "routes.json"
    Deployment(routes).start(Version("v0001", 100, "tiny", "d" * 64), "test", "")
    told = call(registry, shards, "--routes", str(routes), "--json")
    assert json.loads(told.output)["serving"] == "v0001"
    nothing = call(registry, shards, "--routes", str(tmp_path / "no.json"))
    assert nothing.exit_code == 2
    assert "nothing is routed there" in nothing.output


def test_wrong_calls_are_named(registry: Registry, shards: str) -> None:
    for words, told in [
        ((), "give either --serving VERSION or --routes FILE"),
        (("--serving", "v0009"), "known are v0001"),
        (("--serving", "v0001", "--set", "triggers.hours=3"), "triggers.hours"),
        (("--serving", "v0001", "--policy", "none"), "give a .yaml file or one of tiny"),
    ]:
        result = call(registry, shards, *words)
        assert result.exit_code == 2, words
        assert told in " ".join(result.output.split()), words


def test_forced_on_too_little_it_says_so_and_registers_nothing(registry: Registry, shards: str) -> None:
    told = call(registry, shards, "--serving", "v0001", "--force")
    assert told.exit_code == 2
    assert "some clicked and some not, are needed" in " ".join(told.output.split())
    assert len(registry.list()) == 1


def test_watching_goes_on_after_a_failure(registry: Registry, shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    class Stop:
        """Says on the second look that it is enough."""

        def wait(self, seconds: float) -> bool:
            looks.append(seconds)
            return len(looks) == 2

    monkeypatch.setattr("cli.worker.stopped", Stop)
    told = call(registry, shards, "--serving", "v0001", "--force", "--watch", "--every", "7")
    assert told.exit_code == 0, told.output
    assert looks == [7.0, 7.0]
    assert "some clicked and some not, are needed" in " ".join(told.output.split())


def test_a_refusal_is_told_gate_by_gate(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    entry = registry.register(resolve("tiny")[0], base="tiny", parent="v0001", status="refused")
    outcome = RetrainOutcome(entry, decide(Figures(latency_ratio=10.0), GateSettings()), "runs/001")
    verdicts(outcome)
    words = " ".join(capsys.readouterr().out.split())
    assert "10.00 times the serving model's seconds an answer" in words
    assert "not configured" in words
    assert "v0002 registered, refused by its gates; run: runs/001" in words
    observed = Observed(new=5, calibration=Interval(1.0, 0.9, 1.1), population=0.01)
    told: Any = record("v0001", observed, due(observed, TriggerConfig(), BEGINNING), False, outcome)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["outcome"]["status"] == "refused"
    assert told["outcome"]["promote"] is False
    assert {g["name"] for g in told["outcome"]["gates"]["gates"]} >= {"latency", "click_predictor"}
