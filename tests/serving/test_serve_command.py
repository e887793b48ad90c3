"""`llm-auction serve` before it loads a model: the built-in catalogue, and what a person can correct."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.serve import builtin_catalogue, default_candidates
from serving.campaigns.catalogue import read_catalogue


def test_the_builtin_catalogue_is_drawn_by_seed(tmp_path: Path) -> None:
    first = builtin_catalogue(tmp_path, 1).read_bytes()
    assert builtin_catalogue(tmp_path, 1).read_bytes() == first
    assert builtin_catalogue(tmp_path, 2).read_bytes() != first
    catalogue = read_catalogue(builtin_catalogue(tmp_path, 1))
    assert (len(catalogue), catalogue.currency) == (100, "USD")
    assert all(10_000 <= listing.bid <= 1_000_000 and listing.bid % 10_000 == 0 for listing in catalogue)
    assert all(listing.ad.landing_url == f"/demo/{listing.ad.id}" for listing in catalogue)


@pytest.mark.parametrize(
    "options", [["--catalogue", "none.jsonl"], ["--routes", "none.json"], ["--public-url", "ads.example"]]
)
def test_a_wrong_option_is_named(tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(app, ["serve", "--state-dir", str(tmp_path), *options])
    assert result.exit_code == 2
    assert options[1] in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (["--triton", "localhost:1"], "--digest"),
        (["--triton", "localhost:1", "--digest", "d", "--upstream", "http://localhost:1/v1"], "--triton, --upstream"),
        (["--upstream", "http://localhost:1/v1", "--routes", "routes.json"], "--triton, --upstream"),
    ],
)
def test_options_that_contradict_each_other_are_named(tmp_path: Path, options: list[str], place: str) -> None:
    state = tmp_path / "state"
    result = CliRunner().invoke(app, ["serve", "--state-dir", str(state), *options])
    assert result.exit_code == 2
    assert place in result.output
    assert not state.exists(), "nothing was created"


def test_the_assistant_reads_few_ads_unless_another_server_answers() -> None:
    assert default_candidates("assistant", local=True) < default_candidates("tiny", local=True) == 20
    assert default_candidates("assistant", local=False) == 20


def test_a_port_in_use_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "--state-dir", str(tmp_path), "--port", port])
    assert result.exit_code == 2
    assert f"--port {port}" in result.output
    assert "Loading" not in result.output
