"""`python -m benchmarks.serving.router`: the time that this router and the LiteLLM proxy add to a model server.

Both run in front of the same mock model server with one worker each, one after the other in one run on one machine.
They get the same requests from the same load generator, with an API key, over plain HTTP on the loopback interface:

* If there are two cores, the server under test has one; mock and generator share the other. Requests a second *per
  core* are answers divided by CPU seconds of the server's process tree, so they do not depend on the other processes.
* LiteLLM runs as its documentation advises for production, without database, callbacks, retries and request logs. This
  router runs as shipped: 10,000 live campaigns, eligibility, retrieval, an ad with a signed link in every answer, and
  impressions and auction records in its own database. LiteLLM does none of this and shows no ad.
* This router always requests a stream from the model server; LiteLLM requests what its client requested. Plain answers
  are therefore reported separately (`plain_rps_per_core`); that comparison is the less favourable one to this router.
* Offers are retrieved by words, because an encoder's time does not depend on the router; `--encoder` includes it.
* Work that a server defers under load (this router's ledger) is awaited and counted: its CPU time in requests a second
  per core, and its duration in the maximum rate.
* "Added" is a percentile through the server minus the same percentile directly at the mock, at the same rate: half of
  the maximum just measured for that server, so that a slower server is not overloaded.
* Requests are evenly spaced (`--poisson`: random), and latencies are measured from their scheduled times.
* `ten_times_the_campaigns` and `two_workers` are this router again. Two workers share the server's one core: requests a
  second per core show what a second worker costs, not how far two cores go.
* Streams are also held: `--held` at a time with a frame every 50 ms each; every lost frame is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from benchmarks.figures import write_figures
from benchmarks.serving import load, router_servers, router_traffic
from benchmarks.serving.mock_upstream import DELTAS, MODEL
from benchmarks.serving.router_servers import Plan, Running, ServerFailed, Side, book, litellm, litellm_version, ours
from mechanism.errors import AuctionError
from tests.support.ports import free_ports

CONCURRENCY = 64
"""Requests that the saturating load keeps open."""
HELD_GAP_MS = 50.0
SIDES = ["ours", "litellm", "ten_times_the_campaigns", "two_workers"]
MANY = 10
REST_S, REST_SHARE = 1.0, 0.1
"""A server that uses less than this share of a core for this long is idle."""


class Bench:
    """Measures one server after the other, with a mock on a fixed port."""

    def __init__(self, plan: Plan, folder: Path, progress: Progress, task: TaskID) -> None:
        self.plan = plan
        self.folder = folder
        [self.mock_port] = free_ports(1)
        self.progress = progress
        self._task = task

    def measure(self, side: Side) -> dict[str, Any]:
        """Return all figures of one server."""
        with ExitStack() as stack:
            mock = stack.enter_context(self._mock())
            server = stack.enter_context(self._server(side))
            router_servers.wait_for_workers(side)
            figures = asyncio.run(self._at_once(side, server, mock))
        with self._mock(HELD_GAP_MS), self._server(side):
            router_servers.wait_for_workers(side)
            return figures | asyncio.run(self._held(side))

    async def _at_once(self, side: Side, server: Running, mock: Running) -> dict[str, Any]:
        """Return the maximum rate and the added times, with a mock that answers at once."""
        plan, seconds = self.plan, self.plan.seconds
        streams, plain = load.ConnectionPool(side.target(stream=True)), load.ConnectionPool(side.target(stream=False))
        direct = load.ConnectionPool(load.Target(self.mock_port, partial(router_traffic.body, MODEL, stream=True)))
        try:
            self._report(side, "warming up")
            await load.saturating_load(streams, CONCURRENCY, min(5.0, seconds))
            await _wait_until_idle(server)
            self._report(side, "at its maximum")
            used, mock_used = server.cpu_seconds(), mock.cpu_seconds()
            most = await load.saturating_load(streams, CONCURRENCY, seconds)
            deferred_s = await _wait_until_idle(server)
            spent, mock_spent = server.cpu_seconds() - used, mock.cpu_seconds() - mock_used
            _check(side, most)
            sustained = most.answered / (most.seconds + deferred_s)
            rate = sustained / 2
            self._report(side, f"at half of it, {rate:.0f}/s")
            used = server.cpu_seconds()
            through = await load.open_load(streams, rate, seconds, plan.seed, plan.poisson)
            await _wait_until_idle(server)
            half_spent = server.cpu_seconds() - used
            _check(side, through)
            self._report(side, "the mock alone")
            await load.saturating_load(direct, CONCURRENCY, 0.2)
            alone = await load.open_load(direct, rate, seconds, plan.seed, plan.poisson)
            self._report(side, "plain answers")
            await load.saturating_load(plain, CONCURRENCY, min(2.0, seconds))
            await _wait_until_idle(server)
            used = server.cpu_seconds()
            whole = await load.saturating_load(plain, CONCURRENCY, seconds)
            plain_deferred_s = await _wait_until_idle(server)
            plain_spent = server.cpu_seconds() - used
            _check(side, whole)
        finally:
            for pool in (streams, plain, direct):
                pool.close()
        return {
            "rps_per_core": round(len(most.latencies) / spent, 2),  # answers that ended after the time cost CPU as well
            "added_ms_p50": round(through.latency_ms(50) - alone.latency_ms(50), 3),
            "added_ms_p99": round(through.latency_ms(99) - alone.latency_ms(99), 3),
            "ttft_added_ms_p50": round(through.first_ms(50) - alone.first_ms(50), 3),
            "ttft_added_ms_p99": round(through.first_ms(99) - alone.first_ms(99), 3),
            "frame_added_ms_p99": round(through.gap_ms(99) - alone.gap_ms(99), 3),
            "lost_frames": most.lost + through.lost + whole.lost,
            "failed": most.failed + through.failed + whole.failed,
            "max_rps": round(sustained, 2),
            "put_off_s": round(deferred_s, 1),
            "half_rps": round(rate, 2),
            "half_cpu_share": round(half_spent / seconds, 3),
            "frames_per_stream": round(most.frames / max(1, len(most.latencies)), 2),
            "plain_rps_per_core": round(len(whole.latencies) / plain_spent, 2),
            "plain_max_rps": round(whole.answered / (whole.seconds + plain_deferred_s), 2),
            "direct_ms_p50": round(alone.latency_ms(50), 3),
            "direct_ms_p99": round(alone.latency_ms(99), 3),
            "mock_cpu_share": round(mock_spent / most.seconds, 3),
            "answers": sum(len(seen.latencies) for seen in (most, through, whole)),
            "memory_mb": round(server.memory_mb(), 1),
        }

    async def _held(self, side: Side) -> dict[str, Any]:
        """Return the figures of many slow streams at the same time."""
        streams = load.ConnectionPool(side.target(stream=True))
        direct = load.ConnectionPool(load.Target(self.mock_port, partial(router_traffic.body, MODEL, stream=True)))
        try:
            self._report(side, f"holding {self.plan.held} streams")
            await load.saturating_load(streams, 4, 0.1)
            through = await load.saturating_load(streams, self.plan.held, self.plan.seconds)
            alone = await load.saturating_load(direct, self.plan.held, self.plan.seconds)
        finally:
            streams.close()
            direct.close()
        return {
            "streams_held": through.most_open,
            "held_lost_frames": through.lost,
            "held_failed": through.failed,
            "held_frame_added_ms_p99": round(through.gap_ms(99) - alone.gap_ms(99), 3),
        }

    def _mock(self, gap_ms: float = 0.0) -> Any:
        command = [sys.executable, "-m", "benchmarks.serving.mock_upstream", "--port", str(self.mock_port), "--ads"]
        log = self.folder / "mock.log"
        gap = ["--gap-ms", str(gap_ms)]
        return router_servers.started(command + gap, self.mock_port, "/v1/models", log, self.plan.cores[1], os.environ)

    def _server(self, side: Side) -> Any:
        log, cores = self.folder / f"{side.name}.log", self.plan.cores[0]
        return router_servers.started(side.command, side.port, side.health, log, cores, side.environment)

    def _report(self, side: Side, what: str) -> None:
        self.progress.update(self._task, advance=1, description=f"{side.name}: {what}")


STEPS_OF_A_SIDE = 6


def split_cores() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the first core, for the server under test, and the others; two empty tuples if there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return ((cores[0],), tuple(cores[1:])) if len(cores) > 1 else ((), ())


async def _wait_until_idle(server: Running) -> float:
    """Wait until the server is idle, and return the seconds of deferred work after its load."""
    loop, busy, most = asyncio.get_running_loop(), 0.0, 120.0
    began = loop.time()
    while loop.time() - began < most:
        used, at = server.cpu_seconds(), loop.time()
        await asyncio.sleep(REST_S)
        if server.cpu_seconds() - used < REST_SHARE * (loop.time() - at):
            break
        busy = loop.time() - began
    return busy


def _check(side: Side, measured: load.Measured) -> None:
    if not measured.answered:
        raise ServerFailed(f"{side.name} answered no request ({measured.failed} failures): see its log")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.router", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load; 3 for a trial")
    parser.add_argument("--campaigns", type=int, default=10_000)
    parser.add_argument("--held", type=int, default=64, help="slow streams at a time")
    parser.add_argument("--poisson", action="store_true", help="random arrivals in place of evenly spaced ones")
    parser.add_argument("--encoder", action="store_true", help="retrieve this router's offers by embeddings as well")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=SIDES, help="measure these")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--litellm-venv", type=Path, default=Path("build/litellm"))
    parser.add_argument("--out", type=Path, default=Path("build/bench/router.json"))
    given = parser.parse_args()
    plan = Plan(
        given.seconds, given.campaigns, given.held, given.poisson, given.encoder, given.seed, cores=split_cores()
    )
    if plan.cores[1]:
        os.sched_setaffinity(0, plan.cores[1])
    console = Console(stderr=True)
    names: list[str] = given.only
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm-auction-router-")))
        progress = stack.enter_context(Progress(console=console))
        task = progress.add_task("", total=STEPS_OF_A_SIDE * len(names))
        bench = Bench(plan, folder, progress, task)
        failed = False
        for name in (name for name in SIDES if name in names):
            try:
                figures[name] = bench.measure(_side(name, bench, given.litellm_venv.absolute()))
            except AuctionError as error:  # the others' figures are worth their time
                console.print(str(error), markup=False)
                failed = True
    if not figures:
        return 1
    write_figures(given.out, figures | {"ratios": _ratios(figures)} | _setting(plan))
    console.print(_table(figures))
    console.print(f"figures: {given.out}")
    return 1 if failed or any(side["lost_frames"] or side["held_lost_frames"] for side in figures.values()) else 0


def _side(name: str, bench: Bench, litellm_venv: Path) -> Side:
    """Prepare a server under test: LiteLLM's installation, or the router's database."""
    if name == "litellm":
        router_servers.install_litellm(litellm_venv)
        return litellm(bench.folder, litellm_venv, bench.mock_port)
    plan = bench.plan
    if name == "ten_times_the_campaigns":
        plan = replace(plan, campaigns=MANY * plan.campaigns)
    book(name, plan, bench.folder, bench.progress)
    return ours(name, plan, bench.folder, bench.mock_port, 2 if name == "two_workers" else 1)


def _setting(plan: Plan) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            "litellm": litellm_version(),
            **{name: _version(name) for name in ("llm-auction", "litestar", "uvicorn", "uvloop", "aiohttp", "msgspec")},
        },
        "settings": {
            "seconds": plan.seconds,
            "campaigns": plan.campaigns,
            "deltas": DELTAS,
            "open_at_the_maximum": CONCURRENCY,
            "arrivals": "poisson" if plan.poisson else "even",
            "retrieval": "words and meaning" if plan.encoder else "words",
            "held_gap_ms": HELD_GAP_MS,
            "cores_of_the_server": list(plan.cores[0]) or "shared",
            "seed": plan.seed,
        },
    }


def _ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Return the streamed answers a CPU second of this router relative to LiteLLM's, and of its variants to its own."""
    if "ours" not in figures:
        return {}
    one = figures["ours"]["rps_per_core"]
    ratios = {f"{name}_to_ours": round(figures[name]["rps_per_core"] / one, 3) for name in figures if name != "ours"}
    if "litellm" in figures:
        ratios["ours_to_litellm"] = round(one / figures["litellm"]["rps_per_core"], 2)
    return ratios


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor())


def _table(figures: dict[str, Any]) -> Table:
    table = Table("", *figures)
    for name in next(iter(figures.values())):
        table.add_row(name, *(str(side[name]) for side in figures.values()))
    return table


if __name__ == "__main__":
    sys.exit(main())
