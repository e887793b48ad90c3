"""`python -m benchmarks.serving.router`: what this router and the LiteLLM proxy add to a model server, side by side.

Both stand before the same mock model server, one worker each, one after the other, in one run on one machine, and get
the same requests from the same load generator, with an API key, over plain HTTP on the loopback. What is equal and what
is not:

* The server under test has a core of its own where there are two; mock and generator share the other. Requests a second
  *per core* are answers divided by CPU seconds of the server's whole process tree, so they do not depend on the rest.
* LiteLLM runs as its documentation advises for production, without database, callbacks, retries and request logs. This
  router runs as it is delivered: 10,000 live campaigns, eligibility, retrieval, an ad in every answer with its signed
  link, impressions and auction records kept in its own database. LiteLLM has none of this to do, and shows no ad.
* This router always asks the model server for a stream; LiteLLM asks for what its client asked. For plain answers the
  comparison is therefore given apart (`plain_rps_per_core`), and is the less favourable one to this router.
* Offers are found by words: an encoder's time depends on the encoder, not on the router; `--encoder` measures with it.
* What a server puts off while it is busy (this router its ledger) is waited for and counted: its CPU time in requests a
  second per core, and its time in the maximum.
* "Added" is a percentile through the server less the same percentile straight at the mock, at the same rate: half of
  the maximum measured for that server just before, so that a slower one is not asked for more than it can do.
* Requests are evenly spaced (`--poisson` for random ones) and their latency counts from their appointed moment.
* Streams are also held: as many at a time as asked, a frame every 50 ms each, and every lost frame is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from benchmarks.serving import bystanders, litellm_proxy, load, router_campaigns
from benchmarks.serving.bystanders import Running
from benchmarks.serving.measured import Measured
from benchmarks.serving.numbered import DELTAS
from benchmarks.serving.router_sides import MODEL, Plan, Side, book, litellm, ours
from mechanism.errors import AuctionError

TOGETHER = 64
"""Requests that the saturating load keeps open."""
HELD_GAP_MS = 50.0
REST_S, REST_SHARE = 1.0, 0.1
"""A server that used less than this share of a core for so long rests."""


class Bench:
    """The measurement of one side after the other, in a working folder, before a mock on a fixed port."""

    def __init__(self, plan: Plan, folder: Path, progress: Progress, task: TaskID) -> None:
        self.plan = plan
        self.folder = folder
        self.mock_port = bystanders.free_port()
        self._progress = progress
        self._task = task

    def measure(self, side: Side) -> dict[str, Any]:
        """All figures of one side."""
        with ExitStack() as stack:
            mock = stack.enter_context(self._mock())
            server = stack.enter_context(self._server(side))
            figures = asyncio.run(self._at_once(side, server, mock))
        with self._mock(HELD_GAP_MS), self._server(side):
            return figures | asyncio.run(self._held(side))

    async def _at_once(self, side: Side, server: Running, mock: Running) -> dict[str, Any]:
        """Maximum and added times before a mock that answers at once."""
        plan, seconds = self.plan, self.plan.seconds
        streams, plain = load.Crowd(side.target(stream=True)), load.Crowd(side.target(stream=False))
        direct = load.Crowd(load.Target(self.mock_port, partial(router_campaigns.body, MODEL, stream=True)))
        try:
            self._say(side, "warming up")
            await load.full_load(streams, TOGETHER, min(5.0, seconds))
            await _put_off(server)
            self._say(side, "at its maximum")
            used, mock_used = server.cpu_seconds(), mock.cpu_seconds()
            most = await load.full_load(streams, TOGETHER, seconds)
            put_off = await _put_off(server)
            spent, mock_spent = server.cpu_seconds() - used, mock.cpu_seconds() - mock_used
            _check(side, most)
            sustained = most.answered / (most.seconds + put_off)
            rate = sustained / 2
            self._say(side, f"at half of it, {rate:.0f}/s")
            used = server.cpu_seconds()
            through = await load.open_load(streams, rate, seconds, plan.seed, plan.poisson)
            await _put_off(server)
            half_spent = server.cpu_seconds() - used
            _check(side, through)
            self._say(side, "the mock alone")
            await load.full_load(direct, TOGETHER, 0.2)
            alone = await load.open_load(direct, rate, seconds, plan.seed, plan.poisson)
            self._say(side, "plain answers")
            await load.full_load(plain, TOGETHER, min(2.0, seconds))
            await _put_off(server)
            used = server.cpu_seconds()
            whole = await load.full_load(plain, TOGETHER, seconds)
            plain_put_off = await _put_off(server)
            plain_spent = server.cpu_seconds() - used
            _check(side, whole)
        finally:
            for crowd in (streams, plain, direct):
                crowd.close()
        return {
            "rps_per_core": round(len(most.latencies) / spent, 2),  # those that ended after the time were paid for too
            "added_ms_p50": round(through.latency_ms(50) - alone.latency_ms(50), 3),
            "added_ms_p99": round(through.latency_ms(99) - alone.latency_ms(99), 3),
            "ttft_added_ms_p50": round(through.first_ms(50) - alone.first_ms(50), 3),
            "ttft_added_ms_p99": round(through.first_ms(99) - alone.first_ms(99), 3),
            "frame_added_ms_p99": round(through.gap_ms(99) - alone.gap_ms(99), 3),
            "lost_frames": most.lost + through.lost + whole.lost,
            "failed": most.failed + through.failed + whole.failed,
            "max_rps": round(sustained, 2),
            "put_off_s": round(put_off, 1),
            "half_rps": round(rate, 2),
            "half_cpu_share": round(half_spent / seconds, 3),
            "frames_per_stream": round(most.frames / max(1, len(most.latencies)), 2),
            "plain_rps_per_core": round(len(whole.latencies) / plain_spent, 2),
            "plain_max_rps": round(whole.answered / (whole.seconds + plain_put_off), 2),
            "direct_ms_p50": round(alone.latency_ms(50), 3),
            "direct_ms_p99": round(alone.latency_ms(99), 3),
            "mock_cpu_share": round(mock_spent / most.seconds, 3),
            "answers": sum(len(seen.latencies) for seen in (most, through, whole)),
            "memory_mb": round(server.memory_mb(), 1),
        }

    async def _held(self, side: Side) -> dict[str, Any]:
        """Many slow streams at a time."""
        streams = load.Crowd(side.target(stream=True))
        direct = load.Crowd(load.Target(self.mock_port, partial(router_campaigns.body, MODEL, stream=True)))
        try:
            self._say(side, f"holding {self.plan.held} streams")
            await load.full_load(streams, 4, 0.1)
            through = await load.full_load(streams, self.plan.held, self.plan.seconds)
            alone = await load.full_load(direct, self.plan.held, self.plan.seconds)
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
        return bystanders.started(command + gap, self.mock_port, "/v1/models", log, self.plan.cores[1], os.environ)

    def _server(self, side: Side) -> Any:
        log, cores = self.folder / f"{side.name}.log", self.plan.cores[0]
        return bystanders.started(side.command, side.port, side.health, log, cores, side.environment)

    def _say(self, side: Side, what: str) -> None:
        self._progress.update(self._task, advance=1, description=f"{side.name}: {what}")


STEPS_OF_A_SIDE = 6


def split_cores() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first core for the server under test and the others for the rest; nothing to split where there is one."""
    cores = sorted(os.sched_getaffinity(0))
    return ((cores[0],), tuple(cores[1:])) if len(cores) > 1 else ((), ())


async def _put_off(server: Running) -> float:
    """Waits until the server rests, and gives the seconds for which it went on working after its load."""
    loop, busy, most = asyncio.get_running_loop(), 0.0, 120.0
    began = loop.time()
    while loop.time() - began < most:
        used, at = server.cpu_seconds(), loop.time()
        await asyncio.sleep(REST_S)
        if server.cpu_seconds() - used < REST_SHARE * (loop.time() - at):
            break
        busy = loop.time() - began
    return busy


def _check(side: Side, measured: Measured) -> None:
    if not measured.answered:
        raise bystanders.ServerFailed(f"{side.name} answered nothing ({measured.failed} failures): see its log")


def main() -> int:
    """Measures both sides, prints a table and writes the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.router", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load; 3 for a rehearsal")
    parser.add_argument("--campaigns", type=int, default=10_000)
    parser.add_argument("--held", type=int, default=64, help="slow streams at a time")
    parser.add_argument("--poisson", action="store_true", help="random arrivals in place of evenly spaced ones")
    parser.add_argument("--encoder", action="store_true", help="find this router's offers by meaning as well")
    parser.add_argument("--only", choices=["ours", "litellm"], help="one side, for instance while tuning it")
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
    names = [given.only] if given.only else ["ours", "litellm"]
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm-auction-router-")))
        progress = stack.enter_context(Progress(console=console))
        task = progress.add_task("", total=STEPS_OF_A_SIDE * len(names))
        bench = Bench(plan, folder, progress, task)
        try:
            if "litellm" in names:
                progress.update(task, description=f"LiteLLM {litellm_proxy.version()} from PyPI")
                litellm_proxy.install(given.litellm_venv)
            if "ours" in names:
                book(plan, folder, progress)
                figures["ours"] = bench.measure(ours(plan, folder, bench.mock_port))
            if "litellm" in names:
                environment = given.litellm_venv.absolute()
                figures["litellm"] = bench.measure(litellm(folder, environment, bench.mock_port))
        except AuctionError as error:
            console.print(str(error), markup=False)
            return 1
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(figures | _setting(plan)), indent=2) + b"\n")
    console.print(_table(figures))
    console.print(f"figures: {given.out}")
    return 1 if any(side["lost_frames"] or side["held_lost_frames"] for side in figures.values()) else 0


def _setting(plan: Plan) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            "litellm": litellm_proxy.version(),
            **{name: _version(name) for name in ("llm-auction", "litestar", "uvicorn", "uvloop", "aiohttp", "msgspec")},
        },
        "settings": {
            "seconds": plan.seconds,
            "campaigns": plan.campaigns,
            "deltas": DELTAS,
            "open_at_the_maximum": TOGETHER,
            "arrivals": "poisson" if plan.poisson else "even",
            "retrieval": "words and meaning" if plan.encoder else "words",
            "held_gap_ms": HELD_GAP_MS,
            "cores_of_the_server": list(plan.cores[0]) or "shared",
            "seed": plan.seed,
        },
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor())


def _table(figures: dict[str, Any]) -> Table:
    table = Table("", *figures)
    for name in next(iter(figures.values())):
        table.add_row(name, *(str(side[name]) for side in figures.values()))
    return table


if __name__ == "__main__":
    sys.exit(main())
