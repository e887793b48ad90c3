"""The versions of a route file as one policy: loaded, checked, and given traffic by weight while the file changes.

A version takes traffic once it is ready, has the weights that the file names and has written a trial answer. One that
fails this check, or stops being ready later, takes none: its share goes to the others. A version that the file no
longer names is closed after its last answer. A file that cannot be read changes nothing. The file's form and the split
by weight are `serving.policies.route_file`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from mechanism.errors import AuctionError, ConfigError, PolicyError
from mechanism.types import Context
from mechanism.weights import served_version
from serving.metrics import Metrics
from serving.policies.protocol import OWN_LIMITS, AnswerLimits, AsyncPolicyBackend, PolicyEvent, PolicyVersion
from serving.policies.route_file import Routes, Version, choose, parse_routes, read_routes

log = structlog.get_logger(__name__)

Open = Callable[[Version], Awaitable[AsyncPolicyBackend]]
"""Connects to or loads a version's policy; raises an AuctionError if that fails."""

TRIAL = Context("route-check", "What should I look for in running shoes?", ())


@dataclass(frozen=True, slots=True)
class RouteLimits:
    """Limits of a version's checks.

    `trial_s`: seconds for a trial answer; `probe_s`: for one question whether a version is ready; `retry_s`: between
    two checks of a version that failed. A version loses its traffic after `failures` consecutive failed probes.
    """

    trial_s: float = 60.0
    probe_s: float = 5.0
    retry_s: float = 5.0
    failures: int = 2


class ServedVersion:
    """One version of the route file. `fault` is the reason why it takes no traffic; empty: it may take some.

    `leases` counts the answers that use it, `failed_probes` the consecutive probes that failed.
    """

    def __init__(self, version: Version) -> None:
        self.version = version
        self.name = version.name
        self.digest = version.digest
        self.revision = version.revision
        self.fault = "not checked yet"
        self.leases = 0
        self.failed_probes = 0
        self.check: asyncio.Task[None] | None = None
        self.backend: AsyncPolicyBackend | None = None

    def serves(self, version: Version) -> bool:
        """Return whether this is that version: the same weights at the same place."""
        return msgspec.structs.replace(self.version, weight=0) == msgspec.structs.replace(version, weight=0)

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float, limits: AnswerLimits = OWN_LIMITS
    ) -> AsyncGenerator[PolicyEvent, None]:
        """See `PolicyVersion.stream`.

        Raises:
            PolicyError: if the version is not loaded.
        """
        if self.backend is None:
            raise PolicyError(f"version {self.name} is not loaded: {self.fault}")
        async with aclosing(self.backend.stream(context, seed, max_ads, deadline, limits)) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        """Cancel its check and close its backend."""
        if self.check is not None:
            self.check.cancel()
            await asyncio.gather(self.check, return_exceptions=True)
        if self.backend is not None:
            await self.backend.close()
            self.backend = None


class RoutedPolicy(AsyncPolicyBackend):
    """All versions of a route file. Call `start` first, then `refresh` about once a second.

    `open_version` makes the policy of a version, on the event loop. A file that is bad at the start is refused with a
    ConfigError; one that becomes bad later is logged, counted and ignored.
    """

    def __init__(self, path: Path, open_version: Open, limits: RouteLimits = RouteLimits()) -> None:
        self._path = path
        self._open = open_version
        self._limits = limits
        self.routes: Routes = read_routes(path)
        self._data = b""
        self._versions: dict[str, ServedVersion] = {}
        self._retiring: list[ServedVersion] = []
        self._weights: dict[str, float] = {}
        self._serving: dict[str, ServedVersion] = {}
        self._metrics: Metrics | None = None
        self._file_fault = ""

    @property
    def digest(self) -> str:
        """Digest of the version with the greatest share."""
        return max(self.routes.versions, key=lambda version: version.weight).digest

    @property
    def breaker_open(self) -> bool:
        """Whether any version with traffic has an open breaker."""
        backends = (served.backend for served in self._serving.values())
        return any(backend is not None and backend.breaker_open for backend in backends)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the questions in per cent that each version takes now."""
        total = sum(self._weights.values())
        return {name: 100 * weight / total for name, weight in self._weights.items()} if total else {}

    @property
    def faults(self) -> dict[str, str]:
        """Reason why a version takes no traffic, by version."""
        return {name: served.fault for name, served in self._versions.items() if served.fault}

    async def start(self, metrics: Metrics | None = None) -> None:
        """Open and check the file's versions; return when each has passed or failed. Figures go to `metrics`."""
        self._metrics = metrics
        await self.refresh()
        checks = [served.check for served in self._versions.values() if served.check is not None]
        await asyncio.gather(*checks, return_exceptions=True)
        await self.refresh()

    @contextmanager
    def lease(self, key: str) -> Iterator[PolicyVersion]:
        """Keep the version that answers `key` loaded for the `with` block, also before its answer begins."""
        served = self._serving[choose(self._weights, key)] if self._weights else None
        if served is None:
            yield self  # its stream raises the error
            return
        served.leases += 1
        try:
            yield served
        finally:
            served.leases -= 1

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float, limits: AnswerLimits = OWN_LIMITS
    ) -> AsyncGenerator[PolicyEvent, None]:
        """See `AsyncPolicyBackend.stream`; the context's id chooses the version.

        Raises:
            PolicyError: if no version can answer.
        """
        with self.lease(context.id) as version:
            if version is self:
                raise PolicyError("no version of the route file can answer: see the router's log and metrics")
            async with aclosing(version.stream(context, seed, max_ads, deadline, limits)) as events:
                async for event in events:
                    yield event

    async def ready(self) -> bool:
        """Return whether a version with traffic could answer at the last probe."""
        return any(not served.fault for served in self._serving.values())

    async def close(self) -> None:
        """Close all versions."""
        every = {*self._versions.values(), *self._retiring, *self._serving.values()}
        await asyncio.gather(*(served.close() for served in every), return_exceptions=True)

    async def refresh(self) -> None:
        """Read the file, check or probe every version, and assign the weights. A bad file is logged, not raised."""
        await self._read_file()
        self._update_versions()
        await asyncio.gather(*(self._probe(served) for served in {*self._versions.values(), *self._serving.values()}))
        self._assign_weights()
        await self._close_retired()
        self._report()

    async def _read_file(self) -> None:
        try:
            data = await asyncio.to_thread(self._path.read_bytes)
            if data == self._data:
                self._file_fault = ""
                return
            routes = parse_routes(data, str(self._path))
        except (OSError, ConfigError) as error:
            fault = (
                str(error) if isinstance(error, ConfigError) else f"{self._path}: {error.strerror}: restore the file"
            )
            if fault != self._file_fault:
                log.error("route_file.refused", reason=fault)
                if self._metrics is not None:
                    self._metrics.routes_refused.inc()
            self._file_fault = fault
            return
        self.routes, self._data, self._file_fault = routes, data, ""
        log.info("route_file.read", generation=routes.generation, weights={v.name: v.weight for v in routes.versions})

    def _update_versions(self) -> None:
        """Keep the versions that the file still names, add new ones, and retire the others."""
        kept: dict[str, ServedVersion] = {}
        for version in self.routes.versions:
            served = self._versions.get(version.name) or self._serving.get(version.name)
            kept[version.name] = served if served is not None and served.serves(version) else ServedVersion(version)
        staying = set(kept.values())
        self._retiring += [s for s in self._versions.values() if s not in staying and s not in self._retiring]
        self._retiring = [s for s in self._retiring if s not in staying]
        self._versions = kept

    async def _probe(self, served: ServedVersion) -> None:
        """Start the check of a new version; ask one that has passed its check whether it is still ready."""
        if served.check is None:
            served.check = asyncio.create_task(self._check(served), name=f"check of {served.name}")
        if not served.check.done() or served.backend is None:
            return
        try:
            ready = await asyncio.wait_for(served.backend.ready(), self._limits.probe_s)
        except TimeoutError:
            ready = False
        served.failed_probes = 0 if ready else served.failed_probes + 1
        if ready and served.fault:
            served.fault = ""
            log.info("policy_version.ready", version=served.name, digest=served.digest[:12])
        elif served.failed_probes >= self._limits.failures and not served.fault:
            served.fault = "it is no longer ready"
            log.error("policy_version.unavailable", version=served.name, reason=served.fault)

    async def _check(self, served: ServedVersion, after_s: float = 0.0) -> None:
        """Check a version once; if it fails, schedule the next check, so that `start` need not wait for it."""
        await asyncio.sleep(after_s)
        fault = await self._open_and_try(served)
        if not fault:
            served.fault, served.failed_probes = "", 0
            log.info("policy_version.ready", version=served.name, digest=served.digest[:12])
            return
        if fault != served.fault:
            log.error("policy_version.unavailable", version=served.name, reason=fault)
        served.fault = fault
        again = self._check(served, self._limits.retry_s)
        served.check = asyncio.create_task(again, name=f"check of {served.name}")

    async def _open_and_try(self, served: ServedVersion) -> str:
        """Open a version and let it write a trial answer; return why it can take no traffic, empty if it can."""
        loop = asyncio.get_running_loop()
        backend: AsyncPolicyBackend | None = None
        try:
            backend = await self._open(served.version)
            if backend.digest != served.digest:
                found = backend.digest[:12]
                return f"its weights are {found}, not {served.digest[:12]}: route to what was built from these weights"
            if not await asyncio.wait_for(backend.ready(), self._limits.probe_s):
                return "it is not ready: see the policy server's log, and which weights it serves"
            async with aclosing(backend.stream(TRIAL, 0, 0, loop.time() + self._limits.trial_s)) as events:
                async for _ in events:
                    pass
            served.backend, backend = backend, None
        except (AuctionError, TimeoutError) as error:
            return str(error) or type(error).__name__
        except Exception as error:
            log.error("policy_version.check_failed", version=served.name, reason=type(error).__name__)
            return f"its check failed ({type(error).__name__}): see the log"
        finally:
            if backend is not None:
                await backend.close()
        return ""

    def _assign_weights(self) -> None:
        """Split the traffic among the versions that can answer; if none can, keep the split as it is."""
        able = {v.name: float(v.weight) for v in self.routes.versions if v.weight and not self._versions[v.name].fault}
        if not able:
            return
        if able != self._weights:
            log.info("routes.weights_changed", weights=able)
        self._weights = able
        self._serving = {name: self._versions[name] for name in able}

    async def _close_retired(self) -> None:
        """Close the retired versions whose last answer has ended."""
        serving = set(self._serving.values())
        gone = [served for served in self._retiring if not served.leases and served not in serving]
        self._retiring = [served for served in self._retiring if served not in gone]
        for served in gone:
            await served.close()
            log.info("policy_version.closed", version=served.name)

    def _report(self) -> None:
        if self._metrics is None:
            return
        shares = self.shares
        known = {served.name: served for served in (*self._serving.values(), *self._versions.values())}
        figures = {
            name: (served_version(served.digest, served.revision), shares.get(name, 0.0), not served.fault)
            for name, served in known.items()
        }
        self._metrics.follow(self.routes.generation, bool(self._file_fault), figures)
