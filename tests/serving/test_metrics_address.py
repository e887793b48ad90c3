"""Metrics at a separate address, which can be kept private; a stopped router leaves nothing behind."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from cli.main import app
from mechanism.errors import ConfigError
from serving.settings import ServeSettings

Router = Callable[..., Any]


def test_metrics_can_have_a_separate_address(router: Router, scripted: Router, tmp_path: Path) -> None:
    with router(tmp_path, scripted("Try {A1}."), metrics_address="127.0.0.1:0") as running:
        running.ask()
        figures = f"http://127.0.0.1:{running.router.metrics_port}/metrics"
        assert 'llm_auction_ads_shown_total{model_version="0000000000000000"} 1.0' in httpx.get(figures).text
        assert running.get("/metrics").status_code == 404
        assert "/metrics" not in running.get("/openapi.json").json()["paths"]
        assert running.get("/livez").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(figures)


def test_metrics_are_at_the_routers_address_by_default(shared: Any) -> None:
    assert "llm_auction_answers_in_flight" in shared.get("/metrics").text


@pytest.mark.parametrize("address", ["9090", "localhost:", ":9090", "a b:1", "localhost:http"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ConfigError, match="metrics_address"):
        ServeSettings(metrics_address=address)


def test_an_address_in_use_is_an_error_that_names_it(router: Router, scripted: Router, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=address), router(tmp_path, scripted("x"), metrics_address=address):
            pass


def test_the_address_may_come_from_the_environment(tmp_path: Path) -> None:
    wrong = {"LLM_AUCTION_METRICS": "nowhere"}
    result = CliRunner().invoke(app, ["serve", "--state-dir", str(tmp_path)], env=wrong)
    assert result.exit_code == 2
    assert "nowhere" in result.output


def test_a_stopped_router_unfreezes_its_objects(router: Router, scripted: Router, tmp_path: Path) -> None:
    with router(tmp_path, scripted("x")) as running:
        running.ask()
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
