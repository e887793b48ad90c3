"""`llm-auction retrain` and `due` on real lake: decisions, output, and no change while no retraining is due."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks.streaming.event_samples import BEGINNING, interaction
from cli.main import app
from cli.retrain import print_outcome, to_json
from inference.models import resolve
from mechanism.statistics import Interval
from serving.canary.promotion_and_rollback import Deployment
from serving.policies.route_file import Version
from streaming.events import GradedAd, Judgement
from streaming.lake import Row
from tests.trainers.logged_traffic import WINDOW_S, write
from trainers.artifacts.registry import Registry
from trainers.config import GateSettings, TriggerConfig
from trainers.gates.decision import Figures, decide
from trainers.retraining import Observed, RetrainOutcome, is_due


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    found = Registry(tmp_path / "runs")
    found.register(resolve("tiny"), base="tiny")
    return found


@pytest.fixture
def lake(tmp_path: Path) -> str:
    events = [interaction(n, BEGINNING + timedelta(seconds=n)) for n in range(30)]
    url = str(tmp_path / "lake")
    write(
        url,
        [
            Row(
                event,
                Judgement(
                    occurred_at=event.occurred_at + timedelta(seconds=9),
                    auction_id=event.auction_id,
                    answered_at=event.occurred_at,
                    judge="rules",
                    judge_version="1",
                    ads=tuple(GradedAd(ad_id=s.ad_id) for s in event.shown),
                ),
                {},
                WINDOW_S,
            )
            for event in events
        ],
    )
    return url


def call(registry: Registry, lake: str, *words: str) -> Result:
    work = Path(registry.url).parent / "work"
    where = ["--lake", lake, "--models", registry.url, "--work", str(work)]
    return CliRunner().invoke(app, ["retrain", *where, *words])


def test_it_reports_what_it_waits_for_and_trains_nothing(registry: Registry, lake: str) -> None:
    result = call(registry, lake, "--serving", "v0001")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "Retraining of v0001" in words
    assert "waiting for 970" in " ".join(words.replace("│", " ").split())
    assert not (Path(registry.url).parent / "work" / "001").exists()
    assert len(registry.list()) == 1


def test_json_output_is_one_object_on_one_line(registry: Registry, lake: str) -> None:
    result = call(registry, lake, "--serving", "latest", "--json", "--set", "triggers.at_least=10")
    assert result.exit_code == 0, result.output
    (line,) = result.output.splitlines()
    found = json.loads(line)
    assert found["serving"] == "v0001"
    assert found["observed"]["new"] == 30
    assert found["observed"]["watermark"].startswith("2026-11-24")
    assert found["decision"]["due"] is False
    assert found["outcome"] is None


def test_the_serving_version_may_come_from_the_route_file(registry: Registry, lake: str, tmp_path: Path) -> None:
    routes = tmp_path / "routes.json"
    Deployment(routes).start(Version("v0001", 100, "tiny", "d" * 64), "test", "")
    result = call(registry, lake, "--routes", str(routes), "--json")
    assert json.loads(result.output)["serving"] == "v0001"
    nothing = call(registry, lake, "--routes", str(tmp_path / "no.json"))
    assert nothing.exit_code == 2
    assert "no version is routed there" in nothing.output


def test_wrong_options_are_refused(registry: Registry, lake: str) -> None:
    for words, message in [
        ((), "give either --serving VERSION or --routes FILE"),
        (("--serving", "v0009"), "known are v0001"),
        (("--serving", "v0001", "--set", "triggers.hours=3"), "triggers.hours"),
        (("--serving", "v0001", "--policy", "none"), "give a .yaml file or one of smollm2, tiny"),
    ]:
        result = call(registry, lake, *words)
        assert result.exit_code == 2, words
        assert message in " ".join(result.output.split()), words


def test_forced_on_too_few_clicks_it_fails_and_registers_nothing(registry: Registry, lake: str) -> None:
    result = call(registry, lake, "--serving", "v0001", "--force")
    assert result.exit_code == 2
    assert "some clicked and some not, are needed" in " ".join(result.output.split())
    assert len(registry.list()) == 1


def test_watching_continues_after_a_failure(registry: Registry, lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Stop:
        """Set at the second check."""

        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return len(waits) == 2

    monkeypatch.setattr("cli.retrain.stop_event", Stop)
    result = call(registry, lake, "--serving", "v0001", "--force", "--watch", "--every", "7")
    assert result.exit_code == 0, result.output
    assert waits == [7.0, 7.0]
    assert "some clicked and some not, are needed" in " ".join(result.output.split())


def test_a_refusal_is_reported_gate_by_gate(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    entry = registry.register(resolve("tiny"), base="tiny", parent="v0001", status="refused")
    outcome = RetrainOutcome(entry, decide(Figures(latency_ratio=10.0), GateSettings()), "runs/001")
    print_outcome(outcome)
    words = " ".join(capsys.readouterr().out.split())
    assert "10.00 times the serving model's seconds an answer" in words
    assert "not configured" in words
    assert "v0002 registered, refused by its gates; run: runs/001" in words
    observed = Observed(new=5, calibration=Interval(1.0, 0.9, 1.1), population=0.01)
    values: Any = to_json("v0001", observed, is_due(observed, TriggerConfig(), BEGINNING), False, outcome)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["outcome"]["status"] == "refused"
    assert values["outcome"]["promote"] is False
    assert {g["name"] for g in values["outcome"]["gates"]["gates"]} >= {"latency", "click_predictor"}


def due(registry: Registry, lake: Path, *options: str) -> Result:
    lake.mkdir(exist_ok=True)
    command = ["due", "--lake", str(lake), "--registry", registry.url, "--serving", "v0001", *options]
    return CliRunner().invoke(app, command)


def test_an_empty_log_is_not_due_and_the_outcome_says_what_is_missing(registry: Registry, tmp_path: Path) -> None:
    outcome = tmp_path / "outcome.json"
    options = ["--triggers", '{"at_least": 7}', "--outcome", str(outcome), "--since", "2026-11-25T12:00:00+00:00"]
    result = due(registry, tmp_path / "empty", *options)
    assert result.exit_code == 0, result.output
    found = json.loads(outcome.read_text())
    assert (found["new"], found["due"], found["trigger"]) == (0, False, None)
    assert "waiting for 7 more" in found["reason"]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (["--triggers", '{"moon": 1}'], "--triggers"),
        (["--since", "noon"], "--since"),
        (["--since", "2026-11-25"], "zone"),
        (["--window", "0"], "window_s"),
    ],
)
def test_a_wrong_option_of_due_is_named(registry: Registry, tmp_path: Path, options: list[str], place: str) -> None:
    result = due(registry, tmp_path / "empty", *options)
    assert result.exit_code == 2
    assert place in result.output
