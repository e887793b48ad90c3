"""The run directory: what one training run has finished, at any fsspec URL, so that a killed run can be resumed.

Layout: `config.yaml`, `warm-start/`, `epoch-NNN/{feedback,reward_model,rollouts,pairs,policy}/`,
`epoch-NNN/evaluation.json`, `report.json`, `report.html`; `epoch-NNN/PHASE.chunks/` while a phase is unfinished. Which
phases there are and what they hold is left to the training loop.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import yaml

from mechanism.errors import InputError
from trainers.artifacts.locks import Check
from trainers.artifacts.publication import Publication
from trainers.artifacts.store import WRITING, Store, from_json, to_json

CONFIG = "config.yaml"
EVALUATION = "evaluation.json"
"""An epoch's validation figures, beside its phases."""
SCRATCH = ".scratch"
"""`.policy.checkpoints.scratch` marks `policy.checkpoints` as ours to remove; a user's `policy.backup` has no mark."""
CHUNKS = ".chunks"
"""`rollouts.chunks` holds what the unfinished `rollouts` has done so far."""
EPOCH = re.compile(r"epoch-(\d{3,})")
NAME = re.compile(r"[a-z][a-z0-9_-]*")


class Chunks:
    """What a piece of work has done so far, as numbered files that are there whole or not at all."""

    def __init__(self, store: Store, relative: str) -> None:
        self.store = store
        self.relative = relative

    def read(self) -> list[bytes]:
        """Return the chunks in order, up to the first that is missing."""
        present = set(self.store.children(self.relative))
        names = takewhile(lambda name: name in present, map(chunk_name, count()))
        return [self.store.read(f"{self.relative}/{name}") for name in names]

    def write(self, number: int, data: bytes) -> None:
        """Write a chunk; numbers count from 0."""
        self.store.write(f"{self.relative}/{chunk_name(number)}", data)


def chunk_name(number: int) -> str:
    """Return the file name of a chunk."""
    return f"{number:06d}"


class Phase(Publication):
    """A phase of a run: a folder published once the phase is finished, and scratch space until then."""

    def __init__(self, store: Store, name: str, epoch: int | None = None) -> None:
        if not NAME.fullmatch(name):
            raise InputError("phase", name, "use lower-case letters, digits, - and _")
        self.name = name
        self.epoch = epoch
        super().__init__(store, name if epoch is None else f"{epoch_folder(epoch)}/{name}")

    def scratch(self, name: str = "checkpoints") -> Path:
        """Return a local folder `<phase>.<name>` for checkpoints, kept over kills until the phase is published.

        For a remote URL it lies in this machine's cache and is lost with the machine.

        Raises:
            InputError: for an invalid name.
        """
        if not NAME.fullmatch(name):
            raise InputError("scratch", name, "use lower-case letters, digits, - and _")
        folder = self._local.with_name(f"{self._local.name}.{name}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.with_name(f".{folder.name}{SCRATCH}").touch()
        folder.mkdir(exist_ok=True)
        return folder

    def chunks(self, work: str) -> Chunks:
        """Return the chunks of a piece of the phase's work, kept at the run's URL until `remove_chunks`.

        `work` names all that the chunks depend on, such as a digest of it: what other settings made is not taken up.
        """
        return Chunks(self.store, f"{self.relative}{CHUNKS}/{work}")

    def remove_chunks(self) -> None:
        """Remove the chunks of all of the phase's work."""
        self.store.remove(f"{self.relative}{CHUNKS}")

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the finished phase (errors as `fetch` and `from_json`)."""
        file = self.fetch() / name
        return from_json(file.read_text(encoding="utf-8"), str(file))

    @contextmanager
    def open(self) -> Iterator[Path]:
        """As Publication.open; remove the scratch folders once the phase is published."""
        with super().open() as staging:
            yield staging
        self._remove_scratch()

    def tidy(self) -> None:
        """As Publication.tidy; remove the scratch folders as well if the phase is finished."""
        super().tidy()
        if self.finished():
            self._remove_scratch()

    def _remove_scratch(self) -> None:
        for marker in self._local.parent.glob(f".{self._local.name}.*{SCRATCH}"):
            folder = marker.name.removeprefix(".").removesuffix(SCRATCH)
            shutil.rmtree(marker.with_name(folder), ignore_errors=True)
            marker.unlink(missing_ok=True)


class RunDirectory:
    """One training run at `url`: a local path, or an fsspec URL such as file://, memory:// or s3://.

    `cache` is a local folder for work in progress on a remote URL and for copies of its phases; `wait_s` is how long to
    wait for a lock of another process, such as one that died on another machine.
    """

    def __init__(self, url: str | os.PathLike[str], cache: Path | None = None, wait_s: float = 0.0) -> None:
        self.store = Store(url, cache, wait_s)
        self.url = self.store.url

    def create(self, config_text: str, *, resume: bool = False) -> None:
        """Write `config.yaml`; an existing one must hold the same settings, comments aside.

        With `resume`, changed settings replace it, and the earlier ones are kept as `config.1.yaml`, `config.2.yaml`, …

        Raises:
            InputError: if settings differ; it names their keys and never their values.
        """
        settings = _settings(config_text, "the new configuration")
        if not self.exists(CONFIG):
            self.write_text(CONFIG, config_text)
            return
        present = self.config_text()
        differing = sorted(_differing(_settings(present, self.store.place(CONFIG)), settings))
        if not differing:
            return
        if not resume:
            remedy = (
                "settings differ from the run's: give another run directory, or --resume to continue with the new ones"
            )
            raise InputError(self.store.place(CONFIG), ", ".join(differing), remedy)
        kept = next(name for k in range(1, 10_000) if not self.exists(name := f"config.{k}.yaml"))
        self.write_text(kept, present)
        self.write_text(CONFIG, config_text)

    def config_text(self) -> str:
        """Return the run's configuration. InputError if the run was never created."""
        return self.store.read(CONFIG).decode("utf-8")

    def phase(self, name: str, epoch: int | None = None) -> Phase:
        """Return a phase of an epoch (1, 2, …), or of the whole run if `epoch` is None."""
        return Phase(self.store, name, epoch)

    def epochs(self) -> list[int]:
        """Return the finished epochs in order: those with a published `policy` phase and an `evaluation.json`."""
        numbers = sorted(int(match[1]) for name in self.store.children() if (match := EPOCH.fullmatch(name)))
        return [
            n
            for n in numbers
            if n > 0 and self.phase("policy", n).finished() and self.exists(epoch_file(n, EVALUATION))
        ]

    def exists(self, relative: str) -> bool:
        """Return whether a file or folder is there; a phase has `finished`."""
        return self.store.exists(relative)

    def write_text(self, relative: str, text: str) -> None:
        """Write a small file whole or not at all."""
        self.store.write(relative, text.encode("utf-8"))

    def write_json(self, relative: str, value: object) -> None:
        """Write a value as JSON, whole or not at all (errors as `to_json`)."""
        self.write_text(relative, to_json(value, self.store.place(relative)))

    def read_json(self, relative: str) -> Any:
        """Read a value from a JSON file (errors as `Store.read` and `from_json`)."""
        return from_json(self.store.read(relative), self.store.place(relative))

    @contextmanager
    def lock(self) -> Iterator[Check]:
        """Hold the whole run, one trainer at a time, and tidy up after a killed one.

        Yields a function that raises AuctionError if the lock was lost. InputError names the process that holds it.
        """
        with self.store.hold() as check:
            self._tidy()
            yield check

    def _tidy(self) -> None:
        """Remove half-written small files, and what a kill just after publishing left of a phase."""
        workspace = self.store.workspace
        for hidden in (*workspace.glob(".*"), *workspace.glob("epoch-*/.*")):
            if WRITING in hidden.name and hidden.is_file():
                hidden.unlink(missing_ok=True)
            elif WRITING in hidden.name or hidden.name.endswith(SCRATCH):
                name, epoch = hidden.name.split(".")[1], EPOCH.fullmatch(hidden.parent.name)
                if NAME.fullmatch(name):
                    self.phase(name, int(epoch[1]) if epoch else None).tidy()


def epoch_folder(epoch: int) -> str:
    """Return the folder of an epoch, counted from 1: `epoch-001`.

    Raises:
        InputError: for an epoch below 1.
    """
    if isinstance(epoch, bool) or epoch < 1:
        raise InputError("epoch", epoch, "count epochs from 1")
    return f"epoch-{epoch:03d}"


def epoch_file(epoch: int, name: str) -> str:
    """Return the relative name of a file beside an epoch's phases; epoch 0 holds the base model's figures."""
    return f"epoch-{epoch:03d}/{name}"


def _settings(text: str, place: str) -> Any:
    """Parse YAML.

    Raises:
        InputError: if the text is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(place, str(error), "give YAML") from error


def _differing(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys under which two parsed configurations differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {*old, *new}:
            inner = f"{key}.{name}" if key else str(name)
            if name in old and name in new:
                yield from _differing(old[name], new[name], inner)
            else:
                yield inner
    elif old != new or type(old) is not type(new):
        yield key or "the whole file"
