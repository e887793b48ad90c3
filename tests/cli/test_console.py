"""The console script: help, version, errors."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

import cli.main
from cli.exits import exit_status
from mechanism.errors import (
    AuctionError,
    BusyError,
    ConfigError,
    DeviceMemoryError,
    GuardError,
    InputError,
    JudgeError,
    PolicyError,
)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The command `train`, whose module holds only the function that the test passes to `.replace`."""
    module = ModuleType("cli.train")
    module.__spec__ = ModuleSpec("cli.train", None)
    monkeypatch.setitem(sys.modules, "cli.train", module)
    return SimpleNamespace(replace=lambda function: setattr(module, "train", function))


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.main.app, list(arguments))
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_help_names_every_command() -> None:
    code, output = call("--help")
    assert code == 0
    for name in cli.main.ENTRIES:
        assert re.search(rf"^│ {name} ", output, re.MULTILINE), name


@pytest.mark.parametrize("name", cli.main.ENTRIES)
def test_every_command_has_a_module_and_its_help_ends_before_the_raises_section(name: str) -> None:
    code, output = call(name, "--help")
    assert code == 0
    assert "Raises" not in output


def test_help_loads_neither_a_command_nor_anything_heavy() -> None:
    script = (
        "import sys\nfrom cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'litestar', 'structlog', 'cli.data'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_version_is_the_project_s() -> None:
    code, output = call("--version")
    assert (code, output) == (0, "llm-auction 0.1.0\n")


def test_a_misspelt_command_is_refused_with_the_nearest_name() -> None:
    code, output = call("dta")
    assert code == 2
    assert "No such command 'dta'" in output
    assert "data" in output


def test_bad_input_is_one_line_without_a_traceback(command: SimpleNamespace) -> None:
    def fail() -> None:
        raise InputError("catalogue.csv:7, bid", "-3", "give a number\nof micros >= 0")

    command.replace(fail)
    code, output = call("train")
    assert code == 2
    assert output == "error: catalogue.csv:7, bid: '-3': give a number of micros >= 0\n"


def test_debugging_keeps_the_traceback(command: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise InputError("here", 1, "fix it")

    command.replace(fail)
    monkeypatch.setenv("LLM_AUCTION_DEBUG", "1")
    assert isinstance(CliRunner().invoke(cli.main.app, ["train"]).exception, InputError)


def test_a_missing_extra_is_named(command: SimpleNamespace) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    command.replace(fail)
    code, output = call("train")
    assert code == 2
    assert "pip install 'llm-auction[train]'" in output


def test_a_missing_module_of_the_project_is_a_defect(command: SimpleNamespace) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'simulator.nowhere'", name="simulator.nowhere")

    command.replace(fail)
    assert isinstance(CliRunner().invoke(cli.main.app, ["train"]).exception, ModuleNotFoundError)


def test_a_command_gets_its_arguments(command: SimpleNamespace) -> None:
    seen = []

    def take(name: str, times: int = 1) -> None:
        seen.append((name, times))

    command.replace(take)
    assert call("train", "x", "--times", "3")[0] == 0
    assert seen == [("x", 3)]


def test_an_unknown_log_level_is_refused() -> None:
    code, output = call("--log-level", "loud", "data", "none.csv")
    assert code == 2
    assert "error: --log-level: 'loud': give one of debug, info, warning, error" in output


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("file", "x", "fix it"), 2),
        (ConfigError("setting", "x", "fix it"), 2),
        (PolicyError("no such model"), 2),
        (BusyError("run", "held", "wait"), 1),
        (JudgeError("the endpoint is down"), 1),
        (AuctionError("the lock was lost"), 1),
        (GuardError("nan", "not finite", {}), 3),
        (DeviceMemoryError("no memory left"), 4),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_exit_status_says_whether_to_repeat_the_command(error: AuctionError, status: int) -> None:
    assert exit_status(error) == status
