"""`python -m benchmarks.serving.triton`: a long mixed load on a real Triton, with a version change in the middle.

Readers ask for whole answers and for streams, some of which they leave early; every answer is parsed and its weights
are checked. Memory of the server and its models is sampled all along. Ends when both the requests and the minutes are
over, and writes build/bench/triton.json: every figure there is measured in that run.
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

from mechanism.markers import parse
from mechanism.types import Ad, Candidate, Context
from serving.policies.protocol import Completed, TextDelta
from serving.policies.triton import server
from serving.policies.triton.client import ModelRef, connect
from serving.policies.triton.repository import build_repository, model_folder
from serving.policies.triton.rollout import ServedPolicy, VersionChange

OUT = Path("build/bench/triton.json")
DEADLINE_S = 120.0
LEAVES_EARLY = 25
"""Every so many-th streaming reader goes after the first delta."""
WARM_UP = 0.2
"""Share of each version's samples that is left out of the slope: caches fill and allocators settle then."""
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


@dataclass
class Tally:
    """What happened so far; `memory` holds (requests done, resident bytes, stage: 0 before the change of version, 1
    while two versions are loaded, 2 after)."""

    begun: int = 0
    plain: int = 0
    streamed: int = 0
    left_early: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    by_digest: Counter[str] = field(default_factory=Counter)
    first_delta_s: list[float] = field(default_factory=list)
    memory: list[tuple[int, int, int]] = field(default_factory=list)
    change: VersionChange | None = None

    @property
    def done(self) -> int:
        """Requests that have ended."""
        return self.plain + self.streamed + self.failures.total()


def next_version(folder: Path) -> Path:
    """A model folder beside the shipped one: the same sentences from slightly other weights."""
    from safetensors.torch import load_file, save_file

    with model_folder("tiny", None, folder / "saved") as source:
        shutil.copytree(source, folder / "next")
    weights = folder / "next" / "model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return folder / "next"


def question(number: int) -> Context:
    """A context that differs from its neighbours in question, offers and bids."""
    ads = tuple(
        Candidate(Ad(f"A{i}", title, "", title.split()[0]), (number * 7 + i * 13) % 100 * 10_000)
        for i, title in enumerate(TITLES[: number % 6])
    )
    return Context(f"drill-{number}", QUESTIONS[number % 4], ads)


async def one(served: ServedPolicy, number: int, known: set[str], tally: Tally) -> None:
    """One request: whole answers and streams in turn."""
    context, streams = question(number), bool(number % 2)
    leaves = streams and number // 2 % LEAVES_EARLY == 0
    clock = asyncio.get_running_loop().time
    asked, text, done = clock(), "", None
    async with aclosing(served.stream(context, number, 2, asked + DEADLINE_S)) as events:
        async for event in events:
            if isinstance(event, Completed):
                done = event
            elif isinstance(event, TextDelta):
                if not text:
                    tally.first_delta_s.append(clock() - asked)
                text += event.text
                if leaves:
                    break
    if leaves and done is None:
        tally.left_early += 1
    else:
        assert done is not None, "no end"
        faults = parse(text, [c.ad for c in context.candidates]).faults
        assert not faults, "broken markers"
        assert done.digest in known, "unknown weights"
        tally.by_digest[done.digest[:12]] += 1
    tally.streamed += streams
    tally.plain += not streams


async def load(
    running: server.TritonServer, old: ModelRef, new: ModelRef, requests: int, minutes: float, readers: int
) -> tuple[Tally, float]:
    """Runs the load; the tally, and the seconds it took."""
    tally, began = Tally(), time.monotonic()
    client = connect(f"127.0.0.1:{running.grpc}")
    served = ServedPolicy(client, old)
    over = asyncio.Event()
    stage, processes = [0], running.processes()

    def share() -> float:
        """How much of the drill is over, 0 to 1."""
        elapsed = (time.monotonic() - began) / (60 * minutes) if minutes else 1.0
        return min(tally.done / requests, elapsed, 1.0)

    async def reader() -> None:
        while tally.begun < requests or share() < 1.0:
            number = tally.begun
            tally.begun += 1
            try:
                await one(served, number, {old.digest, new.digest}, tally)
            except Exception as error:
                tally.failures[f"{type(error).__name__}: {str(error)[:80]}"] += 1

    async def change() -> None:
        while share() < 0.5:
            await asyncio.sleep(0.05)
        stage[0] = 1
        tally.change = await served.change_to(new)
        while running.processes() > processes:
            await asyncio.sleep(0.05)
        stage[0] = 2

    async def watch() -> None:
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("load on Triton", total=1.0)
            while not over.is_set():
                tally.memory.append((tally.done, running.resident_bytes(), stage[0]))
                shown = f"{tally.done} requests, {tally.failures.total()} failed, {tally.memory[-1][1] / MIB:.0f} MiB"
                progress.update(bar, completed=share(), description=shown)
                await asyncio.sleep(1.0 if minutes else 0.2)

    watching = asyncio.create_task(watch())
    try:
        await asyncio.gather(change(), *(reader() for _ in range(readers)))
    finally:
        over.set()
        await asyncio.gather(watching, return_exceptions=True)
        await client.close()
    return tally, time.monotonic() - began


def report(tally: Tally, seconds: float, new: ModelRef) -> dict[str, Any]:
    """The figures. Memory slopes are taken for each version alone, since two are loaded during the change."""
    assert tally.change is not None
    parts = [[sample for sample in tally.memory if sample[2] == stage] for stage in (0, 2)]
    settled = [part[int(len(part) * WARM_UP) :] for part in parts]
    slopes = [slope_per_1000(part) for part in settled]
    every = [sample for part in settled for sample in part]
    change = tally.change
    return {
        "requests": tally.done,
        "failed": tally.failures.total(),
        "failures": dict(tally.failures),
        "plain": tally.plain,
        "streamed": tally.streamed,
        "left_early": tally.left_early,
        "answers_by_weights": dict(tally.by_digest),
        "seconds": round(seconds, 1),
        "requests_per_s": round(tally.done / seconds, 2),
        "first_delta_ms": {f"p{q}": round(1000 * float(np.percentile(tally.first_delta_s, q)), 1) for q in (50, 99)},
        "memory_first_mib": round(every[0][1] / MIB, 1) if every else None,
        "memory_last_mib": round(every[-1][1] / MIB, 1) if every else None,
        "memory_slope_mib_per_1000_requests": {"before_change": slopes[0], "after_change": slopes[1]},
        "memory_samples": len(tally.memory),
        "version_change_s": round(change.load_s + change.trial_s + change.drain_s, 2),
        "version_change": {
            "load_s": round(change.load_s, 2),
            "trial_s": round(change.trial_s, 2),
            "drain_s": round(change.drain_s, 2),
            "old_unloaded": change.unloaded,
            "serves_now": new.name,
        },
    }


def slope_per_1000(samples: list[tuple[int, int, int]]) -> float | None:
    """Least-squares growth in MiB for 1,000 requests; None for fewer than three samples."""
    if len({requests for requests, _, _ in samples}) < 3:
        return None
    requests, resident = np.array([s[0] for s in samples]), np.array([s[1] for s in samples])
    return round(float(np.polyfit(requests, resident / MIB, 1)[0]) * 1000, 3)


def main(arguments: list[str] | None = None) -> int:
    """Runs the drill; exit status 1 if a request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.triton", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="at least so many (default: 10000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="at least so long; 0: until the requests are done")
    parser.add_argument("--readers", type=int, default=8, help="requests under way at once (default: 8)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for the figures (default: {OUT})")
    chosen = parser.parse_args(arguments)
    prepared = server.prepare()
    with tempfile.TemporaryDirectory(prefix="triton-drill-") as name:
        folder = Path(name)
        built = [build_repository(m, folder / "repository") for m in ("tiny", str(next_version(folder)))]
        old, new = (ModelRef(b.name, b.digest) for b in built)
        with server.running(folder / "repository", [old.name], server.FOLDER / "drill.log", prepared) as running:
            work = load(running, old, new, chosen.requests, chosen.minutes, chosen.readers)
            tally, seconds = asyncio.run(work)
    figures = report(tally, seconds, new)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
