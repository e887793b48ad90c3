"""`llm-auction due`: what the operator's Job asks of the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from trainers.artifacts.registry import Registry

TINY = Path(__file__).parents[2] / "inference" / "models_data" / "tiny"


@pytest.fixture
def registry(tmp_path: Path) -> str:
    Registry(str(tmp_path)).register(TINY, base="tiny", metrics={}, gates={}, version="v1")
    return str(tmp_path)


def test_an_empty_log_is_not_due_and_says_what_is_waited_for(registry: str, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    outcome = tmp_path / "outcome.json"
    told = CliRunner().invoke(
        app,
        [
            "due",
            "--shards",
            str(tmp_path / "shards"),
            "--registry",
            registry,
            "--serving",
            "v1",
            "--triggers",
            '{"at_least": 7}',
            "--outcome",
            str(outcome),
            "--since",
            "2026-11-25T12:00:00+00:00",
        ],
    )
    assert told.exit_code == 0, told.output
    found = json.loads(outcome.read_text())
    assert (found["new"], found["due"], found["trigger"]) == (0, False, None)
    assert "waiting for 7 more" in found["reason"]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (["--triggers", '{"moon": 1}'], "--triggers"),
        (["--since", "noon"], "--since"),
        (["--since", "2026-11-25"], "zone"),
    ],
)
def test_a_wrong_option_is_named(registry: str, tmp_path: Path, options: list[str], place: str) -> None:
    command = ["due", "--shards", str(tmp_path), "--registry", registry, "--serving", "v1", *options]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 2
    assert place in told.output
