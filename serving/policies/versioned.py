"""The versions of a route file as one policy: loaded, checked, given traffic by weight, let go without a broken answer.

A version takes traffic only once it is ready, has the weights that the file names and has written an answer. One that
fails that, or stops being ready later, gets none: its share goes to the others. A file that cannot be read changes
nothing. The file's form and the split are `serving.policies.route_file`'.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from mechanism.errors import AuctionError, ConfigError, PolicyError
from mechanism.types import Context
from mechanism.weights import model_version
from serving.metrics import Metrics
from serving.policies.protocol import AsyncPolicyBackend, PolicyEvent, PolicyVersion
from serving.policies.route_file import Routes, Version, chosen, parse_routes, read_routes

log = structlog.get_logger(__name__)

Open = Callable[[Version], Awaitable[AsyncPolicyBackend]]
"""Gets a version's policy, without asking it anything yet. Raises an AuctionError where that fails."""

TRIAL = Context("route-check", "What should I look for in running shoes?", ())


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """Seconds: for a trial answer, for one look whether a version is ready, between two tries of one that failed its
    check, and how many looks in a row must fail before a version that served gets no more traffic."""

    trial_s: float = 60.0
    look_s: float = 5.0
    again_s: float = 5.0
    failures: int = 2


class ServedVersion:
    """One version as an `AsyncPolicyBackend`. `fault` says why it gets no traffic; empty: it may have some."""

    def __init__(self, version: Version) -> None:
        self.name = version.name
        self.digest = version.digest
        self.policy = version.policy
        self.fault = "not checked yet"
        self.held = 0
        self.failed = 0
        self.checking: asyncio.Task[None] | None = None
        self.backend: AsyncPolicyBackend | None = None

    def serves(self, version: Version) -> bool:
        """Whether this is that version: the same weights at the same place."""
        return (self.name, self.digest, self.policy) == (version.name, version.digest, version.policy)

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float
    ) -> AsyncGenerator[PolicyEvent, None]:
        """As `AsyncPolicyBackend.stream`."""
        if self.backend is None:
            raise PolicyError(f"version {self.name} is not loaded: {self.fault}")
        async with aclosing(self.backend.stream(context, seed, max_ads, deadline)) as events:
            async for event in events:
                yield event

    def hold(self) -> None:
        """An answer has chosen it, and will ask it in a moment or later: it stays until `release`."""
        self.held += 1

    def release(self) -> None:
        """That answer has ended."""
        self.held -= 1

    async def ready(self) -> bool:
        """Whether it may have traffic; as of the last look."""
        return not self.fault

    async def close(self) -> None:
        """Ends it."""
        if self.checking is not None:
            self.checking.cancel()
            await asyncio.gather(self.checking, return_exceptions=True)
        if self.backend is not None:
            await self.backend.close()
            self.backend = None


class RoutedPolicy(AsyncPolicyBackend):
    """All versions as an `AsyncPolicyBackend`. `refresh` is to be called about once a second; `start` before that.

    Raises ConfigError for a file that is bad at the beginning. `open_version` makes the policy of a version, on the
    event loop.
    """

    def __init__(self, path: Path, open_version: Open, limits: RouteLimits = RouteLimits()) -> None:
        self._path = path
        self._open = open_version
        self._limits = limits
        self.routes: Routes = read_routes(path)
        self._data = b""
        self._versions: dict[str, ServedVersion] = {}
        self._retiring: list[ServedVersion] = []
        self._table: dict[str, float] = {}
        self._serving: dict[str, ServedVersion] = {}
        self._metrics: Metrics | None = None
        self._refused = ""

    @property
    def digest(self) -> str:
        """The weights of the version with the greatest share."""
        heaviest = max(self.routes.versions, key=lambda version: version.weight)
        return heaviest.digest

    @property
    def breaker_open(self) -> bool:
        """Whether any version with traffic has an open breaker."""
        backends = (served.backend for served in self._serving.values())
        return any(backend is not None and backend.breaker_open for backend in backends)

    @property
    def shares(self) -> dict[str, float]:
        """Per cent of the questions by version, as they are given out now."""
        total = sum(self._table.values())
        return {name: 100 * weight / total for name, weight in self._table.items()} if total else {}

    @property
    def faults(self) -> dict[str, str]:
        """Why a version gets no traffic, by version."""
        return {name: served.fault for name, served in self._versions.items() if served.fault}

    async def start(self, metrics: Metrics | None = None) -> None:
        """Opens and checks the file's versions; returns when all have passed or failed. Figures go to `metrics`."""
        self._metrics = metrics
        await self.refresh()
        tasks = [served.checking for served in self._versions.values() if served.checking is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.refresh()

    @contextmanager
    def lease(self, key: str) -> Iterator[PolicyVersion]:
        """Keep the version that answers `key` loaded for the `with` block, also before its answer begins."""
        served = self._serving[chosen(self._table, key)] if self._table else None
        if served is None:
            yield self  # its stream raises the error
            return
        served.held += 1
        try:
            yield served
        finally:
            served.held -= 1

    def version_for(self, key: str) -> PolicyVersion:
        """The version that answers `key`; the same one for the same key while the weights allow."""
        if not self._table:
            return self  # its stream says what is wrong
        return self._serving[chosen(self._table, key)]

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float
    ) -> AsyncGenerator[PolicyEvent, None]:
        """As `AsyncPolicyBackend.stream`, on the version that the context's id falls to."""
        version = self.version_for(context.id)
        if version is self:
            raise PolicyError("no version of the route file can answer: see the router's log and metrics")
        async with aclosing(version.stream(context, seed, max_ads, deadline)) as events:
            async for event in events:
                yield event

    async def ready(self) -> bool:
        """Whether a version with traffic can answer; as of the last look."""
        return any(not served.fault for served in self._serving.values())

    async def close(self) -> None:
        """Ends all versions."""
        every = {*self._versions.values(), *self._retiring, *self._serving.values()}
        await asyncio.gather(*(served.close() for served in every), return_exceptions=True)

    async def refresh(self) -> None:
        """Reads the file, looks after every version, and gives out the weights anew. Never raises for a bad file."""
        await self._read()
        self._take_versions()
        await asyncio.gather(*(self._look(served) for served in {*self._versions.values(), *self._serving.values()}))
        self._give_out()
        await self._let_go()
        self._report()

    async def _read(self) -> None:
        try:
            data = await asyncio.to_thread(self._path.read_bytes)
            if data == self._data:
                self._refused = ""
                return
            routes = parse_routes(data, str(self._path))
        except (OSError, ConfigError) as error:
            fault = str(error) if isinstance(error, ConfigError) else f"{self._path}: {error.strerror}: bring it back"
            if fault != self._refused:
                log.error("route file refused, the one before is kept", reason=fault)
                if self._metrics is not None:
                    self._metrics.routes_refused.inc()
            self._refused = fault
            return
        self.routes, self._data, self._refused = routes, data, ""
        log.info("route file read", generation=routes.generation, weights={v.name: v.weight for v in routes.versions})

    def _take_versions(self) -> None:
        kept: dict[str, ServedVersion] = {}
        for version in self.routes.versions:
            served = self._versions.get(version.name) or self._serving.get(version.name)
            kept[version.name] = served if served is not None and served.serves(version) else ServedVersion(version)
        staying = set(kept.values())
        self._retiring += [s for s in self._versions.values() if s not in staying and s not in self._retiring]
        self._retiring = [s for s in self._retiring if s not in staying]
        self._versions = kept

    async def _look(self, served: ServedVersion) -> None:
        """Whether one that has passed its check still can answer; begins the check of one that has not."""
        if served.checking is None:
            served.checking = asyncio.create_task(self._check(served), name=f"check of {served.name}")
        if not served.checking.done() or served.backend is None:
            return
        try:
            ready = await asyncio.wait_for(served.backend.ready(), self._limits.look_s)
        except TimeoutError:
            ready = False
        served.failed = 0 if ready else served.failed + 1
        if ready and served.fault:
            log.info("policy version is ready again", version=served.name)
            served.fault = ""
        elif served.failed >= self._limits.failures and not served.fault:
            served.fault = "it is not ready any more"
            log.error("policy version gets no traffic", version=served.name, reason=served.fault)

    async def _check(self, served: ServedVersion) -> None:
        """Loads it and has it write an answer, until that succeeds."""
        while True:
            fault = await self._tried(served)
            if not fault:
                served.fault, served.failed = "", 0
                log.info("policy version is ready", version=served.name, digest=served.digest[:12])
                return
            if fault != served.fault:
                log.error("policy version gets no traffic", version=served.name, reason=fault)
            served.fault = fault
            # The first try ends here, so that a start does not wait for what may never come.
            served.checking = asyncio.create_task(self._again(served), name=f"check of {served.name}")
            return

    async def _again(self, served: ServedVersion) -> None:
        await asyncio.sleep(self._limits.again_s)
        await self._check(served)

    async def _tried(self, served: ServedVersion) -> str:
        """Why it cannot have traffic; empty if it can."""
        loop = asyncio.get_running_loop()
        version = Version(served.name, 0, served.policy, served.digest)
        backend: AsyncPolicyBackend | None = None
        try:
            backend = await self._open(version)
            if backend.digest != served.digest:
                found = backend.digest[:12]
                return f"its weights are {found}, not {served.digest[:12]}: route to what was built from these weights"
            if not await asyncio.wait_for(backend.ready(), self._limits.look_s):
                return "it is not ready: see the policy server's log, and which weights it serves"
            async with aclosing(backend.stream(TRIAL, 0, 0, loop.time() + self._limits.trial_s)) as events:
                async for _ in events:
                    pass
            served.backend, backend = backend, None
        except (AuctionError, TimeoutError) as error:
            return str(error) or type(error).__name__
        except Exception as error:
            log.error("check of a policy version failed", version=served.name, reason=type(error).__name__)
            return f"its check failed ({type(error).__name__}): see the log"
        finally:
            if backend is not None:
                await backend.close()
        return ""

    def _give_out(self) -> None:
        """The weights of those that can answer. Where none of them can, whoever answered last goes on."""
        able = {v.name: float(v.weight) for v in self.routes.versions if v.weight and not self._versions[v.name].fault}
        if not able:
            return
        if able != self._table:
            log.info("traffic given out", weights=able)
        self._table = able
        self._serving = {name: self._versions[name] for name in able}

    async def _let_go(self) -> None:
        """Closes the versions that the file has no more, when their last answer has ended."""
        serving = set(self._serving.values())
        gone = [served for served in self._retiring if not served.held and served not in serving]
        self._retiring = [served for served in self._retiring if served not in gone]
        for served in gone:
            await served.close()
            log.info("policy version let go", version=served.name)

    def _report(self) -> None:
        if self._metrics is None:
            return
        shares = self.shares
        known = {served.name: served for served in (*self._serving.values(), *self._versions.values())}
        figures = {
            name: (model_version(served.digest), shares.get(name, 0.0), not served.fault)
            for name, served in known.items()
        }
        self._metrics.follow(self.routes.generation, bool(self._refused), figures)
