"""Changing the model version under load without an error: the new one beside the old, then the traffic, then unload.

Triton itself may take an old version away before its successor serves. Here the versions are models of their own, so
the old one goes on until the new one is ready, has the right weights and has written an answer; what fails before that
leaves everything as it was. With several routers on one Triton only the last one to change may unload.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped, unused-ignore]

from mechanism.errors import PolicyError
from mechanism.types import Context
from serving.policies.protocol import AsyncPolicyBackend, PolicyEvent
from serving.policies.triton.client import ModelRef, TritonPolicy, TritonSettings

log = structlog.get_logger(__name__)

TRIAL = Context("version-change", "What should I look for in running shoes?", ())


@dataclass(frozen=True, slots=True)
class ChangeLimits:
    """How long loading, the trial answer and draining may take; seconds."""

    load_s: float = 600.0
    trial_s: float = 60.0
    drain_s: float = 180.0


@dataclass(frozen=True, slots=True)
class VersionChange:
    """A change that was made: from which model to which, seconds by stage, and whether the old one was unloaded."""

    old: ModelRef
    new: ModelRef
    load_s: float
    trial_s: float
    drain_s: float
    unloaded: bool


class ServedPolicy(AsyncPolicyBackend):
    """The version that serves now, as an `AsyncPolicyBackend`; an answer ends on the version that it began on."""

    def __init__(self, client: Any, model: ModelRef, settings: TritonSettings = TritonSettings()) -> None:  # noqa: B008
        self._client = client
        self._settings = settings
        self._open: dict[TritonPolicy, int] = {}
        self._left = asyncio.Event()
        self._changing = asyncio.Lock()
        self.current = TritonPolicy(client, model, settings)

    @property
    def digest(self) -> str:
        """Weights of the next answer; `Completed.digest` names those of a finished one."""
        return self.current.digest

    @property
    def breaker_open(self) -> bool:
        """Whether requests are held back from the current version."""
        return self.current.breaker_open

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float
    ) -> AsyncGenerator[PolicyEvent, None]:
        """As `AsyncPolicyBackend.stream`, on the current version."""
        policy = self.current
        self._open[policy] = self._open.get(policy, 0) + 1
        try:
            async with aclosing(policy.stream(context, seed, max_ads, deadline)) as events:
                async for event in events:
                    yield event
        finally:
            self._open[policy] -= 1
            if not self._open[policy]:
                del self._open[policy]
                self._left.set()

    async def ready(self) -> bool:
        """Whether the current version can answer."""
        return await self.current.ready()

    async def close(self) -> None:
        """Nothing is held; the client belongs to whoever made it."""

    async def change_to(
        self, new: ModelRef, limits: ChangeLimits = ChangeLimits(), unload: bool = True
    ) -> VersionChange:
        """Loads `new`, checks it, moves the traffic, waits for the old version's answers and unloads it.

        Raises PolicyError where the new version cannot serve: then the old one still does, and the new one is unloaded
        again. An old version that will not go is logged, since the change has been made by then.
        """
        async with self._changing:
            old = self.current
            if new.name == old.model.name:
                raise PolicyError(f"{new.name} serves already: build the new weights into the repository first")
            clock = asyncio.get_running_loop().time
            begin = clock()
            candidate = TritonPolicy(self._client, new, self._settings)
            try:
                await self._load(candidate, limits.load_s)
                loaded = clock()
                async with aclosing(candidate.stream(TRIAL, 0, 0, loaded + limits.trial_s)) as events:
                    async for _ in events:
                        pass
            except BaseException:
                await self._unload(new)
                raise
            tried = clock()
            self.current = candidate
            log.info("policy version changed", old=old.model.name, new=new.name)
            drained = await self._drained(old, limits.drain_s)
            done = clock()
            gone = unload and drained and await self._unload(old.model)
            return VersionChange(old.model, new, loaded - begin, tried - loaded, done - tried, gone)

    async def _load(self, candidate: TritonPolicy, seconds: float) -> None:
        """Loads the model and waits until it is ready with the right weights."""
        name = candidate.model.name
        end = asyncio.get_running_loop().time() + seconds
        try:
            await self._client.load_model(name, client_timeout=seconds)
            while not await self._client.is_model_ready(name, client_timeout=seconds):
                if asyncio.get_running_loop().time() > end:
                    raise PolicyError(f"{name} did not become ready in {seconds:.0f} s: see Triton's log")
                await asyncio.sleep(0.1)
        except InferenceServerException as error:
            raise PolicyError(f"Triton could not load {name}: {error.message()}: see its log") from None
        await candidate.verify()

    async def _drained(self, policy: TritonPolicy, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while policy in self._open:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            log.warning("old policy version still has answers under way", model=policy.model.name)
            return False
        return True

    async def _unload(self, model: ModelRef) -> bool:
        try:
            await self._client.unload_model(model.name, client_timeout=self._settings.question_s)
        except InferenceServerException as error:
            log.warning("policy version was not unloaded", model=model.name, reason=str(error.status()))
            return False
        return True
