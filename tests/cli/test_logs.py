"""Log lines: one JSON object per event, levels by room, and no personal data."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from cli import ROOMS, logs


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.level, root.handlers = before[0], before[1]
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.NOTSET)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger("trainers.loop").info("epoch ended", epoch=3, revenue=41.5)
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "epoch ended", "epoch": 3, "revenue": 41.5, "level": "info", "logger": "trainers.loop"}


@pytest.mark.parametrize("key", sorted(logs.WITHHELD))
def test_personal_data_and_credentials_are_withheld_at_any_depth(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger("serving.app").warning("refused", request={key.upper(): "Ada"}, **{key: "Ada"})
    assert "Ada" not in json.dumps(lines(capsys))


def test_the_level_applies_to_this_project_and_third_parties_log_from_warnings_upwards(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("debug", "json")
    structlog.get_logger("mechanism.markers").debug("seen")
    logging.getLogger("a_library").info("not seen")
    logging.getLogger("a_library").warning("seen")
    assert [(line["logger"], line["event"]) for line in lines(capsys)] == [
        ("mechanism.markers", "seen"),
        ("a_library", "seen"),
    ]


def test_an_error_carries_its_traceback_in_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    try:
        raise RuntimeError("lost")
    except RuntimeError:
        structlog.get_logger("cli.run").exception("failed")
    (line,) = lines(capsys)
    assert "RuntimeError: lost" in line["exception"]
