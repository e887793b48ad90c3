"""A real tritonserver for tests: the shipped model, and scripted models whose every step a test knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechanism.types import Ad, Candidate, Context, Profile
from serving.errors import Overloaded
from serving.policies.protocol import OWN_LIMITS, AnswerLimits, Completed, PolicyEvent, PolicyVersion, TextDelta
from serving.policies.triton import server
from serving.policies.triton.client import ModelRef, TritonPolicy, connect
from serving.policies.triton.repository import build_repository

Ports = tuple[int, int, int]
SCRIPTED = '''
import sys, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent / "code"))
from serving.policies.protocol import Completed, TextDelta
from serving.policies.triton import backend

class Scripted:
    """Writes as many deltas as the seed, one every 5 ms."""
    digest = ""
    def stream(self, context, seed, max_ads, limits):
        if context.query == "break":
            raise RuntimeError("a private question")
        for i in range(seed):
            yield TextDelta(f"{context.id}:{i} ")
            time.sleep(0.005)
        yield Completed((), -1.0, seed, 1)

class TritonPythonModel(backend.TritonPythonModel):
    def policies(self):
        return lambda adapter: Scripted()
'''
QUESTIONS = ("Which headphones are good for noisy trains?", "What helps against sore feet after running?")
TITLES = ("Acme Noise Headphones", "Acme Noise Earbuds", "Zephyr Trail Shoes", "Lumen Desk Lamp")
ADS = tuple(Candidate(Ad(f"A{i}", title, "", title.split()[0]), i * 200_000) for i, title in enumerate(TITLES))
PROFILE = Profile("u", interests=("running", "music"))


def context(i: int) -> Context:
    turns = (("user", "Hello."), ("assistant", "Hello, how can I help?")) if i % 2 else ()
    return Context(f"c{i}", QUESTIONS[i % 2], ADS[: i % 5], PROFILE if i % 3 else None, turns)


def plain(name: str = "c", query: str = "q") -> Context:
    return Context(name, query, ())


def scripted(out: Path, source: Path, weights: bytes, slots: int, waiting: int = 0) -> ModelRef:
    """Builds a model without torch whose weights are a few bytes."""
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(weights)
    built = build_repository(str(source), out, slots=slots, waiting=waiting)
    (built.folder / "1" / "model.py").write_text(SCRIPTED)
    return ModelRef(built.name, built.digest)


@dataclass(frozen=True)
class Site:
    """A running server, its repository and its models; `next` is not loaded at the start."""

    server: server.TritonServer
    repository: Path
    tiny: ModelRef
    old: ModelRef
    next: ModelRef
    wide: ModelRef
    narrow: ModelRef

    def run(self, work: Callable[[Any], Awaitable[None]]) -> None:
        """Runs the work with a client on an event loop of its own."""

        async def with_client() -> None:
            client = connect(f"127.0.0.1:{self.server.grpc}")
            try:
                await work(client)
            finally:
                await client.close()

        asyncio.run(with_client())


def ask(
    policy: PolicyVersion, about: Context, seed: int, seconds: float = 60, limits: AnswerLimits = OWN_LIMITS
) -> AsyncGenerator[PolicyEvent, None]:
    return policy.stream(about, seed, 2, asyncio.get_running_loop().time() + seconds, limits)


async def whole(
    policy: PolicyVersion, about: Context, seed: int, seconds: float = 60, limits: AnswerLimits = OWN_LIMITS
) -> tuple[str, Completed]:
    *deltas, done = [event async for event in ask(policy, about, seed, seconds, limits)]
    assert isinstance(done, Completed)
    return "".join(d.text for d in deltas if isinstance(d, TextDelta)), done


async def full(policy: TritonPolicy) -> bool:
    try:
        await whole(policy, plain(), 1)
    except Overloaded:
        return True
    return False


async def until_room(policy: TritonPolicy) -> None:
    async with asyncio.timeout(20):
        while await full(policy):
            await asyncio.sleep(0.02)
