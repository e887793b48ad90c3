"""`serve --workers N`: one address, replaced workers, a drain for all, metrics by worker, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.worker_metrics import WorkerMetrics
from cli.workers import PLACE_VARIABLE, WorkerPlace
from serving.settings import ServeSettings
from tests.support.http_server import QuietHandler, serving_http
from tests.support.ports import free_ports

KEY = "k" * 40
PATIENCE_S = 120.0


def test_each_worker_gets_its_share_and_the_first_the_ledger() -> None:
    whole = ServeSettings(state_dir=Path("unused"), in_flight=10, connections=101, ledger="process")
    one, three = (WorkerPlace(number, 3, 9_000 + number).settings(whole) for number in (1, 3))
    assert (one.in_flight, one.connections, one.ledger, one.metrics_address) == (4, 34, "process", "127.0.0.1:9001")
    assert (three.ledger, three.metrics_address) == ("elsewhere", "127.0.0.1:9003")
    place = WorkerPlace(2, 3, 4)
    assert WorkerPlace.of(place.environment()) == place
    assert WorkerPlace.of({}) is None


@pytest.mark.parametrize(
    ("options", "place", "remedy"),
    [
        ([], "--workers", "--upstream"),
        (["--upstream", "http://localhost:1/v1"], "--metrics", "host:port"),
        (["--routes", "ROUTES", "--metrics", "127.0.0.1:1"], "--routes", "Triton"),
    ],
)
def test_what_workers_cannot_share_is_refused(tmp_path: Path, options: list[str], place: str, remedy: str) -> None:
    routes = tmp_path / "routes.json"
    version = {"name": "v1", "weight": 100, "policy": "models/v1", "digest": "0" * 64}
    routes.write_text(json.dumps({"generation": 1, "versions": [version]}), encoding="utf-8")
    given = [str(routes) if option == "ROUTES" else option for option in options]
    result = CliRunner().invoke(app, ["serve", "--state-dir", str(tmp_path / "state"), "--workers", "2", *given])
    assert result.exit_code == 2
    assert place in result.output
    assert remedy in result.output


@dataclass
class RunningWorker:
    number: int
    metrics_port: int
    restarts: int = 0
    running: bool = True


class Metrics(QuietHandler):
    cut = 0

    def do_GET(self) -> None:
        body = b"# TYPE answers counter\nanswers_total 3.0\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - self.cut])


class CutMetrics(Metrics):
    """Those of a worker that is killed while it answers."""

    cut = 5


def test_a_worker_that_dies_within_a_scrape_is_down_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # reaches no worker
    with serving_http(Metrics) as whole, serving_http(CutMetrics) as cut:
        ports = [int(url.rpartition(":")[2]) for url in (whole, cut)]
        found = WorkerMetrics([RunningWorker(number, port) for number, port in enumerate(ports, 1)]).collect()
        values = {(s.name, s.labels["worker"]): s.value for family in found for s in family.samples}
    assert values[("llm_auction_worker_up", "1")] == 1
    assert values[("llm_auction_worker_up", "2")] == 0
    assert {key: value for key, value in values.items() if key[0] == "answers_total"} == {("answers_total", "1"): 3}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """A supervisor with two workers, the port of the routers and that of the metrics."""
    port, metrics, upstream = free_ports(3)
    state = tmp_path_factory.mktemp("state")
    mock = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.mock_upstream", "--port", str(upstream), "--ads"]
    )
    command = [
        *(sys.executable, "-m", "cli.main", "--log-level", "warning", "serve", "--port", str(port), "--workers", "2"),
        *("--upstream", f"http://127.0.0.1:{upstream}/v1", "--model", "mock", "--state-dir", str(state)),
        *("--metrics", f"127.0.0.1:{metrics}", "--no-encoder"),
    ]
    process = subprocess.Popen(command, env=os.environ | {"LLM_AUCTION_ADMIN_KEY": KEY})
    try:
        until(lambda: up(metrics) == {"1": 1.0, "2": 1.0} and ready(port))
        yield process, port, metrics
    finally:
        process.terminate()
        process.wait(60)
        mock.terminate()
        mock.wait()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "not within the test's patience"
        time.sleep(0.2)


def read(url: str, body: bytes | None = None) -> str:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
        return str(answer.read().decode())


def samples(port: int, name: str) -> dict[str, float]:
    """A metric of each worker."""
    try:
        lines = read(f"http://127.0.0.1:{port}/metrics").splitlines()
    except OSError:
        return {}
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith(name + "{"):
            worker = line.partition('worker="')[2].partition('"')[0]
            found[worker] = found.get(worker, 0.0) + float(line.rpartition(" ")[2])
    return found


def up(port: int) -> dict[str, float]:
    return samples(port, "llm_auction_worker_up")


def ready(port: int) -> bool:
    try:
        return "ok" in read(f"http://127.0.0.1:{port}/readyz")
    except (urllib.error.URLError, OSError):
        return False


def ask(port: int) -> dict[str, object]:
    body = {"model": "mock", "messages": [{"role": "user", "content": "Which running shoes should I buy?"}]}
    answer: dict[str, object] = json.loads(
        read(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode())
    )
    return answer


def test_workers_share_the_address_and_one_that_dies_is_replaced(
    served: tuple[subprocess.Popen[bytes], int, int],
) -> None:
    process, port, metrics = served
    asked = 0
    while set(samples(metrics, "llm_auction_answers_total")) != {"1", "2"}:  # the second may still be starting
        ask(port)
        asked += 1
        assert asked < 500
    until(lambda: sum(samples(metrics, "llm_auction_answers_total").values()) == asked)
    auction: dict[str, str] = ask(port)["auction"]  # type: ignore[assignment]
    for _ in range(20):  # whichever worker is asked
        found = json.loads(read(f"http://127.0.0.1:{port}/v1/auctions/{auction['auction_id']}"))
        assert found["auction_id"] == auction["auction_id"]
    routers = [p for p in psutil.Process(process.pid).children() if PLACE_VARIABLE in p.environ()]
    assert len(routers) == 2
    routers[1].send_signal(signal.SIGKILL)
    until(lambda: not routers[1].is_running())
    for _ in range(8):
        ask(port)
    until(lambda: samples(metrics, "llm_auction_worker_restarts_total") == {"1": 0.0, "2": 1.0})
    until(lambda: up(metrics) == {"1": 1.0, "2": 1.0})
    ask(port)


def test_a_port_that_workers_hold_is_refused_to_others(
    served: tuple[subprocess.Popen[bytes], int, int], tmp_path: Path
) -> None:
    _, port, _ = served
    options = ["--workers", "2", "--metrics", "127.0.0.1:1", "--upstream", "http://127.0.0.1:1/v1", "--no-demo"]
    result = CliRunner().invoke(app, ["serve", "--state-dir", str(tmp_path), "--port", str(port), *options])
    assert result.exit_code == 2
    assert f"--port {port}" in result.output


def test_a_drain_ends_all_workers(served: tuple[subprocess.Popen[bytes], int, int]) -> None:
    process, port, _ = served
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(90) == 0
    _, alive = psutil.wait_procs(family, 10)
    assert alive == []
    with pytest.raises(urllib.error.URLError, match="refused"):
        read(f"http://127.0.0.1:{port}/readyz")
