"""Appending to one table of the lake: rows and the log's offsets in one commit, so that each record is stored once.

A commit carries application transactions of the Delta protocol, named by log, topic and partition:

    <log>/<topic>/<partition>             the offset of the last record in the table
    <log>/<topic>/<partition>/watermark   ms since 1970; every record appended until then is in the table
    <log>/<topic>/partitions              the number of partitions that were ever written

If two writers own one partition, the second commit is refused (`Fenced`), whichever version the writer's handle has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from streaming.lake.schema import PARTITION_BY, STATISTICS, Stored, arrow_schema, to_table
from streaming.lake.store import Lake, LakeDamaged, store_errors
from streaming.log import Fenced, from_ms, to_ms

LOG_PROPERTY = "llm_auction.log"
"""The table property that names the log from which the table is written."""
REOPENED_COMMITS = 50
"""Commits after which a table is opened again: the time of a commit grows with the commits that its handle has made."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The progress of a partition: the offset of the next record, and the watermark (None if it is unknown)."""

    offset: int
    watermark: datetime | None


def offset_id(log: str, topic: str, partition: int) -> str:
    """Return the name of the transaction that holds a partition's last offset."""
    return f"{log}/{topic}/{partition}"


def watermark_id(log: str, topic: str, partition: int) -> str:
    """Return the name of the transaction that holds a partition's watermark."""
    return f"{log}/{topic}/{partition}/watermark"


def partitions_id(log: str, topic: str) -> str:
    """Return the name of the transaction that holds the number of partitions."""
    return f"{log}/{topic}/partitions"


class LakeTable:
    """One table, written from one log.

    Its handle stays open for some commits, as a commit then reads only the commits since the last one.
    """

    def __init__(self, lake: Lake, name: str, log: str) -> None:
        self.name = name
        self._lake = lake
        self._place = lake.location(name)
        self._log = log
        self._commits = 0
        self._handle = lake.create(name, arrow_schema(name), [PARTITION_BY], STATISTICS)
        self._owned: dict[int, int | None] = {}
        _check_types(self._place, self._handle, arrow_schema(name))
        with store_errors(self._place):
            if self._handle.metadata().configuration.get(LOG_PROPERTY) != log:
                self._handle.alter.set_table_properties({LOG_PROPERTY: log}, raise_if_not_exists=False)

    def own(self, partitions: Sequence[int]) -> dict[int, int]:
        """Take partitions over; return, for each one, the offset after its last record in the table.

        A partition without records in the table is left out.
        """
        self._count_partitions(max(partitions, default=-1) + 1)
        found = {}
        for partition in partitions:
            last = self._owned[partition] = self._version(offset_id(self._log, self.name, partition))
            if last is not None:
                found[partition] = last + 1
        return found

    def append(self, rows: Sequence[Stored], marks: Mapping[int, Mark]) -> None:
        """Commit rows together with the progress of their partitions.

        Fenced propagates if another writer has written one of the partitions; nothing was written then. LakeUnavailable
        propagates if it is unknown whether the rows were written; `own` returns the offsets that were.
        """
        if self._commits >= REOPENED_COMMITS:
            self._handle, self._commits = self._lake.open(self.name), 0
        self._check_owned()
        properties = CommitProperties(app_transactions=self._transactions(marks), max_commit_retries=50)
        with store_errors(self._place):
            if rows:
                write_deltalake(
                    self._handle,
                    to_table(self.name, rows),
                    mode="append",
                    schema_mode="merge",
                    commit_properties=properties,
                )
            else:
                self._commit_empty(properties)
        self._commits += 1
        for partition, mark in marks.items():
            self._owned[partition] = mark.offset - 1 if mark.offset else None

    def _check_owned(self) -> None:
        """Refuse to commit if the handle's version already contains another writer's commit of an owned partition.

        The commit itself only detects later ones.

        Raises:
            Fenced: if another writer has committed one of the partitions.
        """
        for partition, last in self._owned.items():
            if self._version(offset_id(self._log, self.name, partition)) != last:
                raise Fenced(f"{self._place} partition {partition}: another worker writes it now")

    def _transactions(self, marks: Mapping[int, Mark]) -> list[Transaction]:
        found = []
        for partition, mark in marks.items():
            if mark.offset:
                found.append(Transaction(offset_id(self._log, self.name, partition), mark.offset - 1))
            if mark.watermark is not None:
                found.append(Transaction(watermark_id(self._log, self.name, partition), to_ms(mark.watermark)))
        return found

    def _count_partitions(self, least: int) -> None:
        """Update the handle, and store that the table has at least this many partitions, for `watermark`."""
        name = partitions_id(self._log, self.name)
        while True:
            with store_errors(self._place):
                self._handle.update_incremental()
            if (self._version(name) or 0) >= least:
                return
            with suppress(Fenced), store_errors(self._place):  # another worker stores the number at the same time
                self._commit_empty(CommitProperties(app_transactions=[Transaction(name, least)]))

    def _commit_empty(self, properties: CommitProperties) -> None:
        self._handle.create_write_transaction(
            [], "append", self._handle.schema(), [PARTITION_BY], commit_properties=properties
        )
        self._handle.update_incremental()

    def _version(self, name: str) -> int | None:
        with store_errors(self._place):
            return self._handle.transaction_version(name)


def _check_types(place: str, handle: DeltaTable, wanted: Any) -> None:
    """Refuse a table with another type in a column; nested types may differ, as fields are added to them.

    Raises:
        LakeDamaged: if a column has another type.
    """
    found = pa.schema(handle.schema().to_arrow())
    for field in wanted:
        actual = found.field(field.name).type if field.name in found.names else field.type
        if not pa.types.is_nested(field.type) and actual != field.type:
            raise LakeDamaged(f"{place}: column {field.name} is {actual} in place of {field.type}: use another folder")


def watermark(handle: DeltaTable, topic: str) -> datetime | None:
    """Return the time until which all records appended to a topic are in its table; None if it is unknown."""
    log = handle.metadata().configuration.get(LOG_PROPERTY)
    count = handle.transaction_version(partitions_id(log, topic)) if log else None
    marks: list[Any] = [handle.transaction_version(watermark_id(str(log), topic, p)) for p in range(count or 0)]
    return None if not marks or None in marks else from_ms(min(marks))
