"""The model registry: `models/<version>/` in Hugging Face layout plus `model.json`, at any fsspec URL.

It records the lineage and the files' digests of each model; a version is never overwritten. Whether a model may serve
is decided by the gates; their decision and the figures are kept in the entry.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, ValidationError

from mechanism.errors import AuctionError, ConfigError, InputError
from mechanism.weights import COMPLETE, ENTRY, WEIGHTS, digest_of
from trainers.artifacts.publication import Manifest, Publication, damage, describe
from trainers.artifacts.store import Store

MODELS = "models"
LATEST = "latest"
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NUMBERED = re.compile(r"v(\d{4,})")
Status = Literal["trained", "candidate", "refused"]
WAIT_S = 600.0
"""Seconds that a registration waits for another one."""


class ModelEntry(BaseModel):
    """`model.json`: one registered model.

    `sha256` maps each weights file to its digest; `base` is the model that training started from, `parent` the
    registered version that this one continues, `run` the run directory's URL and `epoch` its epoch. `status` is the
    gates' decision at registration: a candidate may serve, a refused model may not, a trained one passed no gates.
    `log_until`: the end of the log that it learned from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: str
    created: AwareDatetime
    sha256: dict[str, str]
    base: str
    parent: str | None = None
    run: str | None = None
    epoch: int | None = None
    status: Status = "trained"
    log_until: AwareDatetime | None = None
    metrics: dict[str, JsonValue] = {}
    gates: dict[str, JsonValue] = {}
    notes: str = ""

    @property
    def digest(self) -> str:
        """The digest by which auctions and events name these weights."""
        return digest_of(self.sha256)


class Registry:
    """The models under `url`: a local path or any fsspec URL."""

    def __init__(self, url: str | os.PathLike[str], cache: Path | None = None) -> None:
        # `cache`: local folder for copies of a remote registry's models.
        self.store = Store(url, cache)
        self.url = self.store.url

    def register(
        self,
        folder: str | os.PathLike[str],
        *,
        base: str,
        parent: str | None = None,
        run: str | None = None,
        epoch: int | None = None,
        status: Status = "trained",
        log_until: datetime | None = None,
        metrics: Mapping[str, JsonValue] | None = None,
        gates: Mapping[str, JsonValue] | None = None,
        notes: str = "",
        version: str | None = None,
    ) -> ModelEntry:
        """Copy a model folder in Hugging Face layout, or an adapter alone, under a new version, whole or not at all.

        `version` defaults to the next of v0001, v0002, …

        Raises:
            InputError: if the folder is no model, the version is taken or invalid, a figure is not finite, or the
                parent is not registered.
        """
        source = Path(folder)
        if not any((source / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise InputError(str(source), "no config.json", "give a folder in Hugging Face layout, or an adapter's")
        if parent is not None:
            self.get(parent)
        with self.store.hold(MODELS, wait_s=WAIT_S):
            version = self._free(version)
            with self._publication(version).open() as staging:
                shutil.copytree(source, staging, dirs_exist_ok=True, ignore=_without_records(source))
                weights = {name: f.sha256 for name, f in describe(staging).items() if name.endswith(WEIGHTS)}
                if not weights:
                    endings = ", ".join(WEIGHTS)
                    raise InputError(str(source), "no weights", f"give a folder with a file that ends in {endings}")
                try:
                    entry = ModelEntry(
                        version=version,
                        created=datetime.now(UTC),
                        sha256=weights,
                        base=base,
                        parent=parent,
                        run=run,
                        epoch=epoch,
                        status=status,
                        log_until=log_until,
                        metrics=dict(metrics or {}),
                        gates=dict(gates or {}),
                        notes=notes,
                    )
                except ValidationError as error:
                    raise InputError(*_first_fault("model entry", error)) from error
                (staging / ENTRY).write_text(entry.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return entry

    def list(self) -> tuple[ModelEntry, ...]:
        """Return all registered models, oldest first. InputError if an entry is damaged."""
        finished = (v for v in self.store.children(MODELS) if VERSION.fullmatch(v) and self._publication(v).finished())
        return tuple(sorted(map(self._read, finished), key=lambda entry: (entry.created, entry.version)))

    def get(self, version: str) -> ModelEntry:
        """Return one entry, by its version or "latest" (the newest).

        Raises:
            InputError: if there is none.
        """
        if version == LATEST:
            entries = self.list()
            if not entries:
                raise InputError(self.url, LATEST, "no model is registered there: train one, or give another registry")
            return entries[-1]
        if not VERSION.fullmatch(version) or not self._publication(version).finished():
            known = [v for v in self.store.children(MODELS) if VERSION.fullmatch(v)]
            none_yet = "no model is registered here: train one, or use `llm-auction models register`"
            remedy = f"known are {', '.join(known[-10:])}" if known else none_yet
            raise InputError(f"{self.url}: version", version, remedy)
        return self._read(version)

    def fetch(self, version: str) -> Path:
        """Return the model as a local folder, read-only, after comparing every file with its digest.

        Raises:
            AuctionError: if files differ from what was registered; it names them.
        """
        entry = self.get(version)
        publication = self._publication(entry.version)
        manifest = publication.manifest()
        folder = publication.fetch()
        problems = (*_disagreements(entry, manifest), *damage(manifest, lambda name: (folder / name).open("rb")))
        if problems:
            remedy = "restore the files, or register the model again"
            raise AuctionError(f"{publication.url}: {'; '.join(problems)}: {remedy}")
        return folder

    def verify(self, version: str) -> tuple[str, ...]:
        """Return every damaged or missing file as "name: fault", read where it is stored; empty if there is none."""
        entry = self.get(version)
        publication = self._publication(entry.version)
        return (*_disagreements(entry, publication.manifest()), *publication.verify())

    def _publication(self, version: str) -> Publication:
        return Publication(self.store, f"{MODELS}/{version}")

    def _read(self, version: str) -> ModelEntry:
        relative = f"{MODELS}/{version}/{ENTRY}"
        try:
            return ModelEntry.model_validate_json(self.store.read(relative))
        except ValidationError as error:
            raise InputError(*_first_fault(self.store.place(relative), error)) from error

    def _free(self, version: str | None) -> str:
        """Return the next numbered version, or the requested one.

        Raises:
            InputError: if the requested one is invalid or taken.
        """
        if version is None:
            taken = [int(m[1]) for v in self.store.children(MODELS) if (m := NUMBERED.fullmatch(v)) and self._taken(v)]
            return f"v{max(taken, default=0) + 1:04d}"
        if version == LATEST or not VERSION.fullmatch(version):
            raise InputError("version", version, f"use letters, digits, . _ - (64 at most), and not {LATEST!r}")
        if self._taken(version):
            remedy = "it is registered already and never overwritten: give another"
            raise InputError(f"{self.url}: version", version, remedy)
        return version

    def _taken(self, version: str) -> bool:
        return self._publication(version).finished()


def _without_records(source: Path) -> Callable[[str, list[str]], set[str]]:
    """Return a filter for copytree that leaves out the records of an earlier publication of the source folder."""
    return lambda folder, names: {COMPLETE, ENTRY} & set(names) if Path(folder) == source else set()


def _disagreements(entry: ModelEntry, manifest: Manifest) -> tuple[str, ...]:
    """Return the weights whose digest in `model.json` differs from the manifest's."""
    facts = manifest.files
    return tuple(
        f"{name}: {ENTRY} has another sha256 than {COMPLETE}"
        for name, digest in entry.sha256.items()
        if name not in facts or facts[name].sha256 != digest
    )


def _first_fault(place: str, error: ValidationError) -> tuple[str, object, str]:
    """Return place, value and remedy of the first fault that pydantic found."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{place}: {field}", first["input"], first["msg"]


def local_base(base: str) -> str:
    """Return a base model as `Policy.load` takes it: a name, a folder, or a version fetched from a registry.

    `base` may be a version in a registry at a URL (`s3://bucket/prefix/models/v0003`); each of its files is compared
    with its digest. Errors of such a version are those of `Registry.fetch`.

    Raises:
        ConfigError: if a URL names no version.
    """
    if "://" not in base:
        return base
    registry, _, version = base.rpartition(f"/{MODELS}/")
    if not registry or not version or "/" in version:
        raise ConfigError(
            "base", base, f"of a registry at a URL give a version, as in s3://bucket/prefix/{MODELS}/v0003"
        )
    return str(Registry(registry).fetch(version))
