"""Upkeep of a lake's tables: apply retention, merge small files, checkpoint their logs, remove unreferenced files."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
from deltalake import DeltaTable

from mechanism.errors import ConfigError
from streaming.lake.erasures import drop_requests, read_requests, record, remove_readers
from streaming.lake.schema import STORED
from streaming.lake.store import KEPT_HOURS, Lake, store_errors
from streaming.topics import INTERACTIONS

TARGET_BYTES = 64 << 20
"""Small files are merged into files of up to this size."""
FIRST_TARGET_BYTES = 16 << 20
"""The same between two passes: a file that is merged again and again stays small, as its replaced copies are kept."""
RETENTION = "retention"


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Settings of the upkeep.

    days          days after which rows are deleted
    reader_days   days after which the reader's part is removed
    kept_hours    hours for which replaced files are kept, for readers of an earlier version
    """

    days: int = 400
    reader_days: int = 90
    kept_hours: int = KEPT_HOURS

    def __post_init__(self) -> None:
        if self.days < 1 or self.reader_days < 1:
            raise ConfigError("retention days", min(self.days, self.reader_days), "give 1 day or more")
        if self.kept_hours < 0:
            raise ConfigError("kept_hours", self.kept_hours, "give 0 hours or more")


class Maintained(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one pass: files merged and removed, readers' parts and rows removed."""

    merged_files: int = 0
    removed_files: int = 0
    readers_removed: int = 0
    rows_removed: int = 0

    def __add__(self, other: Maintained) -> Maintained:
        return Maintained(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})

    def to_dict(self) -> dict[str, int]:
        """Return the counts as a dict."""
        return msgspec.structs.asdict(self)


def maintain(
    lake: Lake, settings: Maintenance, now: datetime | None = None, stop: threading.Event | None = None
) -> Maintained:
    """Make one pass over the tables; `stop` ends it after the current step.

    LakeUnavailable propagates if the store cannot be reached or another program changed the same files; a later pass
    does the rest.
    """
    at = now or datetime.now(UTC)
    if not lake.has(INTERACTIONS):
        return Maintained()
    done = _retain(lake, settings, at)
    for name in STORED:
        if stop is not None and stop.is_set():
            break
        if lake.has(name):
            done += _compact(lake, name, settings)
    return done


def merge(lake: Lake) -> int:
    """Merge the small files of recent commits and nothing else; return how many were merged (errors as `maintain`)."""
    return sum(_merge(lake.open(name), lake.location(name), FIRST_TARGET_BYTES) for name in STORED if lake.has(name))


def _retain(lake: Lake, settings: Maintenance, now: datetime) -> Maintained:
    """Remove data past their retention, and data under a request to erase that were stored again."""
    readers = sum(remove_readers(lake, request.predicate) for request in read_requests(lake).all)
    drop_requests(lake, now)
    old = (now - timedelta(days=settings.reader_days)).date()
    readers += remove_readers(lake, f"day < DATE '{old}'")
    oldest, rows = (now - timedelta(days=settings.days)).date(), 0
    for name in STORED:
        if lake.has(name):
            handle = lake.open(name)
            with store_errors(lake.location(name)):
                rows += int(handle.delete(f"day < DATE '{oldest}'")["num_deleted_rows"] or 0)
    if readers or rows:
        record(lake, RETENTION, "age", readers, now)
    return Maintained(readers_removed=readers, rows_removed=rows)


def _compact(lake: Lake, name: str, settings: Maintenance) -> Maintained:
    handle = lake.open(name)
    merged = _merge(handle, lake.location(name), TARGET_BYTES)
    with store_errors(lake.location(name)):
        handle.create_checkpoint()
        handle.cleanup_metadata()
        # full: also files that a killed writer left without a commit
        removed = handle.vacuum(
            settings.kept_hours, dry_run=False, enforce_retention_duration=settings.kept_hours >= KEPT_HOURS, full=True
        )
    return Maintained(merged_files=merged, removed_files=len(removed))


def _merge(handle: DeltaTable, place: str, target_bytes: int) -> int:
    with store_errors(place):
        merged = handle.optimize.compact(target_size=target_bytes, max_concurrent_tasks=1)
    return int(merged["numFilesRemoved"])
