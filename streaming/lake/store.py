"""The store of a lake: a folder or `s3://bucket/prefix` with one Delta table in each subfolder, and its errors.

Credentials and addresses of object stores come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), as for
all other data that this project keeps in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError, SchemaMismatchError

from mechanism.errors import AuctionError, InputError
from streaming.log import Fenced

KEPT_HOURS = 12
"""How long replaced files and earlier versions are kept, for runs that pinned them; they still hold erased data."""
CHECKPOINT_COMMITS = 50
"""Commits between two checkpoints of a table's log, which make the table fast to open."""
_CONCURRENT = "Concurrent transaction failed"


class LakeUnavailable(AuctionError):
    """The lake cannot be read or written now; a later attempt may succeed."""


class LakeDamaged(AuctionError):
    """A table of the lake does not have the form that this program writes; nothing was changed."""


class Lake:
    """A folder of tables. `url` is a folder or an object store's URL."""

    def __init__(self, url: str) -> None:
        if not url:
            raise InputError("lake", url, "give a folder, or s3://bucket/prefix")
        remote = "://" in url
        self.url = url.rstrip("/") if remote else str(Path(url).absolute())
        self.storage_options = _options() if remote else {}

    def location(self, table: str) -> str:
        """Return a table's own URL."""
        return f"{self.url}/{table}"

    def has(self, table: str) -> bool:
        """Return whether a table was created; LakeUnavailable propagates if the store cannot be read."""
        with store_errors(self.location(table)):
            return DeltaTable.is_deltatable(self.location(table), self.storage_options)

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """Open a table, at its newest version or an earlier one.

        Raises:
            InputError: if the version was removed, as versions are kept for KEPT_HOURS.
            LakeUnavailable: if the table cannot be read now.
        """
        location = self.location(table)
        try:
            with store_errors(location):
                return DeltaTable(location, version=version, storage_options=self.storage_options)
        except LakeUnavailable as error:
            if version is None or not self.has(table):
                raise
            remedy = f"versions are kept for {KEPT_HOURS} hours: pin the newest one"
            raise InputError(f"{location} at version", version, remedy) from error

    def create(
        self, table: str, schema: Any, partition_by: Sequence[str] = (), statistics: Sequence[str] = ()
    ) -> DeltaTable:
        """Create a table, or open it if there is one already.

        `statistics` are the columns whose minimum and maximum are kept for each file.
        """
        location = self.location(table)
        if "://" not in location:
            Path(location).mkdir(parents=True, exist_ok=True)
        kept = f"interval {KEPT_HOURS} hours"
        with store_errors(location):
            return DeltaTable.create(
                location,
                schema,
                mode="ignore",
                partition_by=list(partition_by),
                configuration={
                    "delta.checkpointInterval": str(CHECKPOINT_COMMITS),
                    # no minimum or maximum of a personal column in the table's log
                    "delta.dataSkippingStatsColumns": ",".join(statistics),
                    "delta.logRetentionDuration": kept,
                    "delta.deletedFileRetentionDuration": kept,
                },
                storage_options=self.storage_options,
            )


@contextmanager
def store_errors(place: str) -> Iterator[None]:
    """Raise this project's errors in place of the store's.

    Raises:
        Fenced: if another writer committed the same application transaction first.
        LakeDamaged: if this program cannot read or write tables of this form.
        LakeUnavailable: for all other errors, which may be temporary.
    """
    try:
        yield
    except CommitFailedError as error:
        if _CONCURRENT in str(error):
            raise Fenced(f"{place}: another worker writes these partitions now") from None
        raise LakeUnavailable(f"{place}: {error}") from error
    except (DeltaProtocolError, SchemaMismatchError) as error:
        raise LakeDamaged(f"{place}: {error}") from error
    except (DeltaError, OSError) as error:
        raise LakeUnavailable(f"{place}: {error}") from error


def _options() -> dict[str, str]:
    """Allow plain HTTP if the environment names such an endpoint; the client reads all other options itself."""
    address = os.environ.get("AWS_ENDPOINT_URL", "")
    return {"allow_http": "true"} if address.startswith("http://") else {}
