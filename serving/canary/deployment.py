"""Promotion and rollback: the route file that routers follow, and beside it who changed it, when and why.

A change is written to the history first and to the route file second, both in one step each; after a kill between the
two the next change begins from what is really served. A promoted version leaves the one before it loaded without
traffic, so that the way back is instant. Whether a version is good enough is decided by its gates and by the guard.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from mechanism.errors import InputError
from mechanism.files import replace_file
from serving.policies.route_file import Routes, Version, check_routes, read_routes

FULL = 100
Kind = Literal["start", "promote", "keep", "rollback"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the history. `version` is the one that it is about: "start" (the first), "promote" (to `share` per
    cent), "keep" (the guard found nothing against it) or "rollback" (it went back). `after` is routed from then on."""

    at: datetime
    kind: Kind
    version: str
    by: str
    why: str
    share: int = 0
    after: tuple[Version, ...] = ()


class Deployment:
    """The versions behind one route file. Changes of several processes follow one another. `clock` tells their time."""

    def __init__(self, routes: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = routes
        self._clock = clock
        self.history_path = routes.with_suffix(".history.jsonl")

    def versions(self) -> tuple[Version, ...]:
        """What is routed now; empty before the first. Raises ConfigError for a damaged file."""
        return read_routes(self.path).versions if self.path.is_file() else ()

    def serving(self) -> Version | None:
        """The version with the greatest share, None before the first."""
        return max(self.versions(), key=lambda version: version.weight, default=None)

    def history(self) -> tuple[Change, ...]:
        """All changes, oldest first. Raises InputError for a damaged line; the end of a write that a kill cut off is
        passed over."""
        if not self.history_path.is_file():
            return ()
        lines = self.history_path.read_bytes().split(b"\n")
        changes = []
        for number, line in enumerate(lines[:-1], 1):  # what follows the last line end is not whole
            try:
                changes.append(msgspec.json.decode(line, type=Change))
            except msgspec.DecodeError as error:
                place = f"{self.history_path}:{number}"
                raise InputError(place, line[:80].decode(errors="replace"), f"{error}: mend the line") from error
        return tuple(changes)

    def probation(self) -> Change | None:
        """The promotion whose version is still to be kept or sent back, None where there is none."""
        last = next(reversed(self.history()), None)
        if last is None or last.kind != "promote":
            return None
        return last if last.version in {version.name for version in self.versions()} else None

    def start(self, version: Version, by: str, why: str) -> Change:
        """Routes everything to a first version. InputError where something is routed already."""
        with self._alone():
            if self.versions():
                raise InputError(str(self.path), version.name, "versions are routed already: promote the new one")
            return self._change("start", version, FULL, (_weighing(version, FULL),), by, why)

    def promote(self, version: Version, by: str, why: str, share: int = FULL) -> Change:
        """Gives a version `share` per cent of the traffic and the rest to the version that serves now.

        Raises InputError for a share outside 1..100, for a version that has all of it already, and for another version
        under a name that is routed.
        """
        if not 1 <= share <= FULL:
            raise InputError("share", share, f"give per cent from 1 to {FULL}")
        with self._alone():
            routed = self.versions()
            known = next((other for other in routed if other.name == version.name), None)
            if known is not None and (known.digest, known.policy) != (version.digest, version.policy):
                raise InputError("version", version.name, "another model is routed under this name")
            if known is not None and known.weight == share:
                raise InputError("version", version.name, f"it has {share}% of the traffic already")
            others = [other for other in routed if other.name != version.name]
            before = max(others, key=lambda other: other.weight, default=None)
            if before is None and share < FULL:
                raise InputError("share", share, "there is no other version to have the rest")
            after = (_weighing(version, share), *([_weighing(before, FULL - share)] if before else []))
            return self._change("promote", version, share, after, by, why)

    def keep(self, by: str, why: str, of: str = "") -> Change:
        """Ends the probation: all traffic to the version that was promoted. InputError where none is on probation, or
        another than `of` by now."""
        with self._alone():
            change = self.probation()
            if change is None or of not in ("", change.version):
                raise InputError(str(self.path), of, "no version is on probation, or another one is")
            version = next(v for v in self.versions() if v.name == change.version)
            others = [_weighing(other, 0) for other in self.versions() if other.name != change.version]
            return self._change("keep", version, FULL, (_weighing(version, FULL), *others), by, why)

    def rollback(self, by: str, why: str, of: str = "") -> Change:
        """Back to the version before the newest one; called again, one further. InputError where there is none, or the
        newest is not `of` any more."""
        with self._alone():
            newest, target = self._before()
            if newest is None or target is None:
                raise InputError(str(self.path), "rollback", "there is no earlier version to go back to")
            if of not in ("", newest.name):
                raise InputError(str(self.path), of, f"{newest.name} is the newest version by now")
            return self._change("rollback", newest, 0, (_weighing(target, FULL),), by, why)

    def _before(self) -> tuple[Version | None, Version | None]:
        """The newest version that is routed, and the one that served before it came: the history is walked as a stack,
        a rollback takes away what the promotion put on it."""
        stack: list[Version] = []
        for change in self.history():
            version = next((v for v in change.after if v.name == change.version), None)
            if change.kind == "rollback":
                stack = [v for v in stack if v.name != change.version]
            elif version is not None:
                stack = [*(v for v in stack if v.name != version.name), version]
        routed = {version.name for version in self.versions()}
        while stack and stack[-1].name not in routed:
            stack.pop()
        return (stack[-1] if stack else None), (stack[-2] if len(stack) > 1 else None)

    def _change(
        self, kind: Kind, version: Version, share: int, after: tuple[Version, ...], by: str, why: str
    ) -> Change:
        generation = read_routes(self.path).generation + 1 if self.path.is_file() else 1
        routes = Routes(after, generation)
        check_routes(routes, str(self.path))
        change = Change(at=self._clock(), kind=kind, version=version.name, by=by, why=why, share=share, after=after)
        self._append(msgspec.json.encode(change) + b"\n")
        replace_file(self.path, msgspec.json.format(msgspec.json.encode(routes), indent=1) + b"\n")
        return change

    def _append(self, line: bytes) -> None:
        with self.history_path.open("a+b") as file:
            # A line that a kill cut off never counted: nothing was routed by it.
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.truncate(_last_end(self.history_path))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _weighing(version: Version, weight: int) -> Version:
    return msgspec.structs.replace(version, weight=weight)


def _last_end(path: Path) -> int:
    """Where the last whole line ends."""
    return path.read_bytes().rfind(b"\n") + 1
