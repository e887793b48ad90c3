"""Keep a server's model repository up to date with a route file: the adapters that it names on one base.

It runs beside a server whose versions come from a registry, so that a new one needs no new pod.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from mechanism.errors import AuctionError, InputError
from serving.policies.route_file import Routes, Version
from serving.policies.triton.repository import BuiltModel
from serving.policies.triton.wire import ADAPTERS, model_name

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Follower:
    """Builds the adapters of a route file on the base with the digest `base` into the repository `out`.

    `build` adds a registered version, by its name, to the repository.
    """

    base: str
    out: Path
    build: Callable[[str], BuiltModel]

    def update(self, routes: Routes) -> AuctionError | None:
        """Build what is missing; return the last error. What cannot be built is logged and tried again next time."""
        last: AuctionError | None = None
        for version in self._missing(routes):
            try:
                self._build(version)
                log.info("adapter.built", version=version.name, digest=version.digest[:12])
            except AuctionError as error:
                last = error
                log.error("adapter.not_built", version=version.name, reason=str(error))
        return last

    def holds_any(self, routes: Routes) -> bool:
        """Return whether an adapter of the route file is there, so that a server has something to serve."""
        return len(self._missing(routes)) < len(self._wanted(routes))

    def _wanted(self, routes: Routes) -> list[Version]:
        return [version for version in routes.versions if version.base == self.base]

    def _missing(self, routes: Routes) -> list[Version]:
        folder = self.out / model_name(self.base) / "1" / ADAPTERS
        return [version for version in self._wanted(routes) if not (folder / version.digest[:12]).is_dir()]

    def _build(self, version: Version) -> None:
        """Build a version.

        Raises:
            InputError: if the registered version or its base has other weights than the route file says.
        """
        built = self.build(version.name.partition("+")[0])
        for what, found, wanted in (("", built.digest, version.digest), ("'s base", built.base, self.base)):
            if found != wanted:
                remedy = "give the digests that `llm-auction triton build --shared` prints"
                raise InputError(f"weights of {version.name}{what}", found, f"the route file names {wanted}: {remedy}")
