"""Promotion and rollback: the route file that routers follow, and beside it who changed it, when and why.

A change is appended to the history first and written to the route file second, each in one step; after a kill between
the two, the next change starts from what the route file routes. The version before a promoted one stays loaded without
traffic, so that a rollback is instant. Gates and the guard decide whether a version is good enough.
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
    """One line of the history.

    `kind`: "start" routes the first `version`, "promote" gives it `share` per cent, "keep" ends its probation, and
    "rollback" takes its traffic away. `after` is what is routed from then on.
    """

    at: datetime
    kind: Kind
    version: str
    by: str
    why: str
    share: int = 0
    after: tuple[Version, ...] = ()


class Deployment:
    """The versions behind one route file. A file lock serialises changes of several processes."""

    def __init__(self, routes: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = routes
        self._clock = clock
        self.history_path = routes.with_suffix(".history.jsonl")

    def versions(self) -> tuple[Version, ...]:
        """Return what is routed now; empty before the first version. `read_routes` refuses a damaged file."""
        return read_routes(self.path).versions if self.path.is_file() else ()

    def serving(self) -> Version | None:
        """Return the version with the greatest share, None before the first."""
        return max(self.versions(), key=lambda version: version.weight, default=None)

    def history(self) -> tuple[Change, ...]:
        """Return all changes, oldest first. A last line that a kill left incomplete is ignored.

        Raises:
            InputError: if a line is damaged.
        """
        if not self.history_path.is_file():
            return ()
        lines = self.history_path.read_bytes().split(b"\n")
        changes = []
        for number, line in enumerate(lines[:-1], 1):  # after the last line end: empty, or incomplete
            try:
                changes.append(msgspec.json.decode(line, type=Change))
            except msgspec.DecodeError as error:
                place = f"{self.history_path}:{number}"
                raise InputError(place, line[:80].decode(errors="replace"), f"{error}: repair the line") from error
        return tuple(changes)

    def probation(self) -> Change | None:
        """Return the promotion that the guard has not decided about yet, None if there is none."""
        last = next(reversed(self.history()), None)
        if last is None or last.kind != "promote":
            return None
        return last if last.version in {version.name for version in self.versions()} else None

    def start(self, version: Version, by: str, why: str) -> Change:
        """Route all traffic to a first version.

        Raises:
            InputError: if a version is routed already.
        """
        with self._locked():
            if self.versions():
                raise InputError(str(self.path), version.name, "versions are routed already: promote the new one")
            return self._apply("start", version, FULL, (_with_weight(version, FULL),), by, why)

    def promote(self, version: Version, by: str, why: str, share: int = FULL) -> Change:
        """Give a version `share` per cent of the traffic and the rest to the version that serves now.

        Raises:
            InputError: if the share is outside 1..100, the version has that share already, the name is routed to
                another model, or no other version can have the rest.
        """
        if not 1 <= share <= FULL:
            raise InputError("share", share, f"give per cent from 1 to {FULL}")
        with self._locked():
            routed = self.versions()
            known = next((other for other in routed if other.name == version.name), None)
            if known is not None and (known.digest, known.policy) != (version.digest, version.policy):
                raise InputError("version", version.name, "another model is routed under this name")
            if known is not None and known.weight == share:
                raise InputError("version", version.name, f"it has {share}% of the traffic already")
            others = [other for other in routed if other.name != version.name]
            before = max(others, key=lambda other: other.weight, default=None)
            if before is None and share < FULL:
                raise InputError("share", share, "no other version is routed to take the rest: give 100")
            after = (_with_weight(version, share), *([_with_weight(before, FULL - share)] if before else []))
            return self._apply("promote", version, share, after, by, why)

    def keep(self, by: str, why: str, of: str = "") -> Change:
        """End the probation: route all traffic to the promoted version.

        Raises:
            InputError: if no version is on probation, or another one than `of`.
        """
        with self._locked():
            change = self.probation()
            if change is None or of not in ("", change.version):
                remedy = "this version is not on probation: see `llm-auction rollback --history`"
                raise InputError(str(self.path), of, remedy)
            version = next(v for v in self.versions() if v.name == change.version)
            others = [_with_weight(other, 0) for other in self.versions() if other.name != change.version]
            return self._apply("keep", version, FULL, (_with_weight(version, FULL), *others), by, why)

    def rollback(self, by: str, why: str, of: str = "") -> Change:
        """Route all traffic to the version before the newest one; called again, to the one before that.

        Raises:
            InputError: if there is no earlier version, or the newest is another one than `of`.
        """
        with self._locked():
            newest, target = self._newest_and_previous()
            if newest is None or target is None:
                raise InputError(str(self.path), "rollback", "no earlier version is known: promote another one instead")
            if of not in ("", newest.name):
                raise InputError(str(self.path), of, f"the newest version is {newest.name}: roll that one back")
            return self._apply("rollback", newest, 0, (_with_weight(target, FULL),), by, why)

    def _newest_and_previous(self) -> tuple[Version | None, Version | None]:
        """Return the newest routed version and the one that served before it.

        Replays the history as a stack: a promotion pushes its version, a rollback removes it.
        """
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

    def _apply(self, kind: Kind, version: Version, share: int, after: tuple[Version, ...], by: str, why: str) -> Change:
        generation = read_routes(self.path).generation + 1 if self.path.is_file() else 1
        routes = Routes(after, generation)
        check_routes(routes, str(self.path))
        change = Change(at=self._clock(), kind=kind, version=version.name, by=by, why=why, share=share, after=after)
        self._append(msgspec.json.encode(change) + b"\n")
        replace_file(self.path, msgspec.json.format(msgspec.json.encode(routes), indent=1) + b"\n")
        return change

    def _append(self, line: bytes) -> None:
        with self.history_path.open("a+b") as file:
            # Drop an incomplete last line: its change was never routed.
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.truncate(_end_of_last_line(self.history_path))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _with_weight(version: Version, weight: int) -> Version:
    return msgspec.structs.replace(version, weight=weight)


def _end_of_last_line(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1
