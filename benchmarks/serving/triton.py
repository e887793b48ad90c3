"""`python -m benchmarks.serving.triton`: a long mixed load on a real Triton, with a version change in the middle.

Readers ask for whole answers and for streams, some of which they cancel; every answer is parsed and its weights are
checked. The version changes as in production: the new model is loaded beside the old one, the route file is replaced,
and the router's policy (`serving.policies.versioned`) checks the new version, moves the traffic and closes the old one.
Memory of the server and its models is sampled throughout. Ends when both the requests and the minutes are over, and
writes build/bench/triton.json: every figure there is measured in that run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from mechanism.files import replace_file
from mechanism.markers import parse
from mechanism.types import Ad, Candidate, Context
from serving.policies.protocol import Completed, TextDelta
from serving.policies.route_file import Version
from serving.policies.triton import server
from serving.policies.triton.client import ModelRef, TritonPolicy, connect
from serving.policies.triton.repository import build_repository, model_folder
from serving.policies.versioned import RoutedPolicy
from tests.support.ports import free_ports

OUT = Path("build/bench/triton.json")
DEADLINE_S = 120.0
REFRESH_S = 1.0
"""How often the route file is read; the router's default."""
CANCEL_EVERY = 25
"""Every Nth streaming reader leaves after the first delta."""
WARM_UP = 0.2
"""Share of each version's first samples that the slope leaves out: caches fill and allocators settle then."""
MIB = 2**20
QUESTIONS = (
    "Which headphones are good for noisy trains?",
    "What helps against sore feet after running?",
    "How do I sleep better on a hot night?",
    "Which laptop is good for a student?",
)
TITLES = (
    "Acme Noise Headphones",
    "Acme Noise Earbuds",
    "Zephyr Trail Shoes",
    "Nimbus Cool Mattress",
    "Lumen Desk Lamp",
)


@dataclass(frozen=True)
class VersionChange:
    """Seconds of each stage: loading, check and switch of the traffic, last answer of the old version."""

    load_s: float
    switch_s: float
    drain_s: float


@dataclass
class Tally:
    """Counts so far.

    `memory`: (requests done, resident bytes, stage), with stage 0 before the version change, 1 while two versions are
    loaded, 2 after.
    """

    begun: int = 0
    plain: int = 0
    streamed: int = 0
    cancelled: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    by_digest: Counter[str] = field(default_factory=Counter)
    first_delta_s: list[float] = field(default_factory=list)
    memory: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of requests that have ended."""
        return self.plain + self.streamed + self.failures.total()


class VersionOnTriton(TritonPolicy):
    """The policy of one version; `closed` is set when the routed policy has closed it."""

    def __init__(self, version: Version) -> None:
        super().__init__(connect(version.server), ModelRef(version.name, version.digest), own_client=True)
        self.closed = asyncio.Event()

    async def close(self) -> None:
        """Close the client and set `closed`."""
        await super().close()
        self.closed.set()


class Deployed:
    """The models of one Triton behind a route file."""

    def __init__(self, path: Path, running: server.TritonServer, first: ModelRef) -> None:
        self._address = f"127.0.0.1:{running.grpc}"
        self._path = path
        self._client = connect(self._address)
        self._opened: dict[str, VersionOnTriton] = {}
        self.current = first
        self._route(first)
        self.policy = RoutedPolicy(path, self._open)

    async def follow(self) -> None:
        """Follow the route file until cancelled."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.policy.refresh()

    async def change_to(self, new: ModelRef) -> VersionChange:
        """Load the new model, route the traffic to it, and unload the old one after its last answer."""
        clock, old = asyncio.get_running_loop().time, self.current
        began = clock()
        await self._client.load_model(new.name)
        while not await self._client.is_model_ready(new.name):
            await asyncio.sleep(0.1)
        loaded = clock()
        self._route(new)
        while new.name not in self.policy.shares:
            await asyncio.sleep(0.05)
        switched = clock()
        await self._opened[old.name].closed.wait()
        drained = clock()
        await self._client.unload_model(old.name)
        self.current = new
        return VersionChange(loaded - began, switched - loaded, drained - switched)

    async def close(self) -> None:
        """Close the policy and the client."""
        await self.policy.close()
        await self._client.close()

    async def _open(self, version: Version) -> VersionOnTriton:
        self._opened[version.name] = VersionOnTriton(version)
        return self._opened[version.name]

    def _route(self, model: ModelRef) -> None:
        version = {"name": model.name, "weight": 100, "digest": model.digest, "policy": f"triton {self._address}"}
        replace_file(self._path, json.dumps({"versions": [version]}).encode())


def next_version(folder: Path) -> Path:
    """Save a model beside the shipped one that writes the same sentences with slightly different weights."""
    from safetensors.torch import load_file, save_file

    with model_folder("tiny", None, folder / "saved") as source:
        shutil.copytree(source, folder / "next")
    weights = folder / "next" / "model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return folder / "next"


def question(number: int) -> Context:
    """Return a context that differs from its neighbours in question, offers and bids."""
    ads = tuple(
        Candidate(Ad(f"A{i}", title, "", title.split()[0]), (number * 7 + i * 13) % 100 * 10_000)
        for i, title in enumerate(TITLES[: number % 6])
    )
    return Context(f"drill-{number}", QUESTIONS[number % 4], ads)


async def ask(policy: RoutedPolicy, number: int, known: set[str], tally: Tally) -> None:
    """Send one request: whole answers and streams in turn."""
    context, streams = question(number), bool(number % 2)
    cancels = streams and number // 2 % CANCEL_EVERY == 0
    clock = asyncio.get_running_loop().time
    asked, text, done = clock(), "", None
    async with aclosing(policy.stream(context, number, 2, asked + DEADLINE_S)) as events:
        async for event in events:
            if isinstance(event, Completed):
                done = event
            elif isinstance(event, TextDelta):
                if not text:
                    tally.first_delta_s.append(clock() - asked)
                text += event.text
                if cancels:
                    break
    if cancels and done is None:
        tally.cancelled += 1
    else:
        assert done is not None, "no end"
        faults = parse(text, [c.ad for c in context.candidates]).faults
        assert not faults, "broken markers"
        assert done.digest in known, "unknown weights"
        tally.by_digest[done.digest[:12]] += 1
    tally.streamed += streams
    tally.plain += not streams


async def load(
    running: server.TritonServer,
    routes: Path,
    old: ModelRef,
    new: ModelRef,
    requests: int,
    minutes: float,
    readers: int,
) -> tuple[Tally, VersionChange, float]:
    """Run the load; return the tally, the version change and the seconds it took."""
    tally, began = Tally(), time.monotonic()
    deployed = Deployed(routes, running, old)
    await deployed.policy.start()
    over = asyncio.Event()
    stage, processes = 0, running.processes()

    def share() -> float:
        """Return the share of the drill that is over, 0 to 1."""
        elapsed = (time.monotonic() - began) / (60 * minutes) if minutes else 1.0
        return min(tally.done / requests, elapsed, 1.0)

    async def reader() -> None:
        while tally.begun < requests or share() < 1.0:
            number = tally.begun
            tally.begun += 1
            try:
                await ask(deployed.policy, number, {old.digest, new.digest}, tally)
            except Exception as error:
                tally.failures[f"{type(error).__name__}: {str(error)[:80]}"] += 1

    async def change() -> VersionChange:
        nonlocal stage
        while share() < 0.5:
            await asyncio.sleep(0.05)
        stage = 1
        changed = await deployed.change_to(new)
        while running.processes() > processes:
            await asyncio.sleep(0.05)
        stage = 2
        return changed

    async def sample() -> None:
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("load on Triton", total=1.0)
            while not over.is_set():
                tally.memory.append((tally.done, running.resident_bytes(), stage))
                shown = f"{tally.done} requests, {tally.failures.total()} failed, {tally.memory[-1][1] / MIB:.0f} MiB"
                progress.update(bar, completed=share(), description=shown)
                await asyncio.sleep(1.0 if minutes else 0.2)

    background = [asyncio.create_task(work) for work in (sample(), deployed.follow())]
    try:
        changed, *_ = await asyncio.gather(change(), *(reader() for _ in range(readers)))
    finally:
        over.set()
        background[1].cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await deployed.close()
    assert changed is not None
    return tally, changed, time.monotonic() - began


def report(tally: Tally, change: VersionChange, seconds: float, new: ModelRef) -> dict[str, Any]:
    """Return the figures. Memory slopes are taken for each version alone, since two are loaded during the change."""
    parts = [[sample for sample in tally.memory if sample[2] == stage] for stage in (0, 2)]
    settled = [part[int(len(part) * WARM_UP) :] for part in parts]
    slopes = [slope_per_1000(part) for part in settled]
    every = [sample for part in settled for sample in part]
    return {
        "requests": tally.done,
        "failed": tally.failures.total(),
        "failures": dict(tally.failures),
        "plain": tally.plain,
        "streamed": tally.streamed,
        "cancelled": tally.cancelled,
        "answers_by_weights": dict(tally.by_digest),
        "seconds": round(seconds, 1),
        "requests_per_s": round(tally.done / seconds, 2),
        "first_delta_ms": {f"p{q}": round(1000 * float(np.percentile(tally.first_delta_s, q)), 1) for q in (50, 99)},
        "memory_first_mib": round(every[0][1] / MIB, 1) if every else None,
        "memory_last_mib": round(every[-1][1] / MIB, 1) if every else None,
        "memory_slope_mib_per_1000_requests": {"before_change": slopes[0], "after_change": slopes[1]},
        "memory_samples": len(tally.memory),
        "version_change_s": round(change.load_s + change.switch_s + change.drain_s, 2),
        "version_change": {
            "load_s": round(change.load_s, 2),
            "switch_s": round(change.switch_s, 2),
            "drain_s": round(change.drain_s, 2),
            "serves_now": new.name,
        },
    }


def slope_per_1000(samples: list[tuple[int, int, int]]) -> float | None:
    """Return the least-squares growth in MiB per 1,000 requests; None for fewer than three samples."""
    if len({requests for requests, _, _ in samples}) < 3:
        return None
    requests, resident = np.array([s[0] for s in samples]), np.array([s[1] for s in samples])
    return round(float(np.polyfit(requests, resident / MIB, 1)[0]) * 1000, 3)


def main(arguments: list[str] | None = None) -> int:
    """Run the drill; exit status 1 if a request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.triton", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="fewest requests (default: 10000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="shortest duration; 0: until the requests are done")
    parser.add_argument("--readers", type=int, default=8, help="concurrent requests (default: 8)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for the figures (default: {OUT})")
    chosen = parser.parse_args(arguments)
    prepared = server.prepare()
    with tempfile.TemporaryDirectory(prefix="triton-drill-") as name:
        folder = Path(name)
        built = [build_repository(m, folder / "repository") for m in ("tiny", str(next_version(folder)))]
        old, new = (ModelRef(b.name, b.digest) for b in built)
        http, grpc, metrics = free_ports(3)
        log = server.FOLDER / "drill.log"
        with server.running(folder / "repository", [old.name], log, prepared, (http, grpc, metrics)) as running:
            routes = folder / "routes.json"
            work = load(running, routes, old, new, chosen.requests, chosen.minutes, chosen.readers)
            tally, change, seconds = asyncio.run(work)
    figures = report(tally, change, seconds, new)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
