"""Retrainings under one folder or URL, each a run directory: which have ended, and which was killed and continues.

001/retraining.json     how it began: serving version, moment, which part of the log
001/outcome.json        how it ended; missing until then
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import AliasChoices, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mechanism.errors import InputError
from trainers.artifacts.locks import Check
from trainers.artifacts.run_directory import RunDirectory
from trainers.artifacts.store import Store
from trainers.config import RetrainConfig

BEGUN = "retraining.json"
ENDED = "outcome.json"
_NUMBER = re.compile(r"\d{3,}")
Kind = TypeVar("Kind", bound=BaseModel)


class Begun(BaseModel):
    """`retraining.json`: how a retraining began, on the log of auctions from `log_since` to before `log_until`.

    Records of earlier releases name the log `shards`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True)

    serving: str
    begun_at: AwareDatetime
    lake: str = Field(validation_alias=AliasChoices("lake", "shards"))
    log_since: AwareDatetime | None
    log_until: AwareDatetime
    newest_since: AwareDatetime | None
    reason: str
    config: RetrainConfig


class Ended(BaseModel):
    """`outcome.json`: how a retraining ended.

    `version` is None where there was no model to register, `stopped` the reason. `read` is False where it ended before
    it used any of the log.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ended_at: AwareDatetime
    version: str | None
    promote: bool
    reasons: tuple[str, ...]
    stopped: str | None = None
    read: bool = True


class Attempt:
    """One retraining: its run directory, how it began, and how it ended."""

    def __init__(self, url: str, number: int) -> None:
        self.number = number
        self.run = RunDirectory(url)

    @property
    def begun(self) -> Begun:
        """How it began. InputError for a damaged record."""
        return _read(self.run, BEGUN, Begun)

    @property
    def ended(self) -> Ended | None:
        """How it ended; None while it runs, or after it was killed. InputError for a damaged record."""
        return _read(self.run, ENDED, Ended) if self.run.exists(ENDED) else None

    def end(self, ended: Ended) -> Ended:
        """Write how it ended."""
        self.run.write_text(ENDED, ended.model_dump_json(indent=2) + "\n")
        return ended


class Attempts:
    """All retrainings under `url` (a folder or any fsspec URL)."""

    def __init__(self, url: str | Path) -> None:
        self._store = Store(url)
        self.url = self._store.url.rstrip("/")

    def lock(self) -> AbstractContextManager[Check]:
        """Hold the folder, one process at a time. InputError names the process that holds it."""
        return self._store.hold("retraining")

    def all(self) -> list[Attempt]:
        """Return the retrainings in the order in which they began."""
        numbers = sorted(int(name) for name in self._store.children() if _NUMBER.fullmatch(name))
        found = [Attempt(f"{self.url}/{n:03d}", n) for n in numbers]
        return [attempt for attempt in found if attempt.run.exists(BEGUN)]

    def unfinished(self, serving: str) -> Attempt | None:
        """Return the retraining that was killed while it trained from this serving version, if there is one."""
        return next((a for a in self.all() if a.ended is None and a.begun.serving == serving), None)

    def last(self) -> Attempt | None:
        """Return the newest retraining, however it ended."""
        every = self.all()
        return every[-1] if every else None

    def begin(self, begun: Begun) -> Attempt:
        """Begin a retraining under the next number."""
        every = self.all()
        number = every[-1].number + 1 if every else 1
        attempt = Attempt(f"{self.url}/{number:03d}", number)
        attempt.run.write_text(BEGUN, begun.model_dump_json(indent=2) + "\n")
        return attempt


def new_since(attempts: Attempts, trained_until: datetime | None) -> datetime | None:
    """Return the moment from which interactions are new.

    It is the end of the log that the last retraining read, however it ended, or else of the serving model's log.
    """
    read = [a.begun.log_until for a in attempts.all() if (ended := a.ended) is None or ended.read]
    return max([*read, *([trained_until] if trained_until else [])], default=None)


def _read(run: RunDirectory, name: str, kind: type[Kind]) -> Kind:
    try:
        return kind.model_validate(run.read_json(name))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{run.url}/{name}: {field}", first.get("input"), "damaged: remove it") from error
