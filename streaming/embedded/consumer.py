"""A member of a consumer group, or a reader without one, over the files of an embedded log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import Self

from mechanism.errors import InputError
from streaming.embedded.frames import Frame
from streaming.embedded.groups import Membership
from streaming.embedded.segments import Reader
from streaming.log import OnAssigned, OnRevoked, Partition, Record, fenced, from_ms

BALANCE_S = 0.2
"""How often the members of the group are looked at."""
PAUSES_S = (0.002, 0.005, 0.01, 0.02, 0.05)


class EmbeddedConsumer:
    """Implements `streaming.log.Consumer`. `partitions` gives the number of partitions of each topic, `end` the end of
    one."""

    def __init__(
        self,
        root: Path,
        group: str,
        partitions: Mapping[str, int],
        end: Callable[[Partition], int],
        on_assigned: OnAssigned | None,
        on_revoked: OnRevoked | None,
        *,
        durable: bool,
    ) -> None:
        self._root = root
        self._end = end
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._durable = durable
        self._readers: dict[Partition, Reader] = {}
        self._paused: frozenset[Partition] = frozenset()
        self._turn = 0
        self._balanced = float("-inf")
        self._closed = False
        self._group = Membership(root, group, partitions, durable=durable) if group else None
        if self._group is None:
            self._add([Partition(topic, n) for topic, count in partitions.items() for n in range(count)])

    def poll(self, timeout_s: float, most: int = 500) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        pauses = iter(PAUSES_S)
        pause = 0.0
        while True:
            self._balance()
            records = self._read(most)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            pause = next(pauses, pause)
            time.sleep(min(pause, left))

    def assignment(self) -> frozenset[Partition]:
        return frozenset(self._readers)

    def position(self, partition: Partition) -> int:
        return self._reader(partition).offset

    def seek(self, partition: Partition, offset: int) -> None:
        self._reader(partition).seek(offset)

    def pause(self, partitions: AbstractSet[Partition]) -> None:
        self._paused = frozenset(partitions)

    def commit(self, offsets: Mapping[Partition, int] | None = None) -> None:
        if self._group is None:
            raise InputError("group", "", "a consumer without a group has nowhere to commit: give it one")
        if offsets is None:
            offsets = {partition: reader.offset for partition, reader in self._readers.items()}
        if foreign := sorted(set(offsets) - set(self._group.owned)):
            raise fenced(foreign[0])
        for partition, offset in offsets.items():
            if self._group.committed(partition) != offset:
                self._group.commit(partition, offset)

    def committed(self, partition: Partition) -> int | None:
        return None if self._group is None else self._group.committed(partition)

    def ends(self) -> dict[Partition, int]:
        return {partition: self._end(partition) for partition in self._readers}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._drop(list(self._readers))
        finally:
            if self._group is not None:
                self._group.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _balance(self) -> None:
        if self._group is None or time.monotonic() - self._balanced < BALANCE_S:
            return
        self._balanced = time.monotonic()
        wanted = self._group.wanted()
        self._drop([partition for partition in self._readers if partition not in wanted])
        self._add([p for p in sorted(wanted) if p not in self._readers and self._group.take(p)])

    def _add(self, partitions: Sequence[Partition]) -> None:
        if not partitions:
            return
        for partition in partitions:
            committed = None if self._group is None else self._group.committed(partition)
            folder = self._root / partition.topic / str(partition.number)
            self._readers[partition] = Reader(folder, committed or 0, durable=self._durable)
        started = self._on_assigned(partitions) if self._on_assigned else None
        for partition, offset in (started or {}).items():
            self.seek(partition, offset)

    def _drop(self, partitions: Sequence[Partition]) -> None:
        if not partitions:
            return
        try:
            if self._group is not None:
                self.commit((self._on_revoked(partitions) if self._on_revoked else None) or {})
        finally:
            for partition in partitions:
                self._readers.pop(partition).close()
            if self._group is not None:
                self._group.give_up(partitions)

    def _reader(self, partition: Partition) -> Reader:
        try:
            return self._readers[partition]
        except KeyError:
            raise InputError("partition", tuple(partition), "poll until it is assigned to this consumer") from None

    def _read(self, most: int) -> list[Record]:
        """From the partitions in turn, so that a long one does not starve the others."""
        records: list[Record] = []
        partitions = [partition for partition in self._readers if partition not in self._paused]
        for i in range(len(partitions)):
            partition = partitions[(self._turn + i) % len(partitions)]
            found = self._readers[partition].read(most - len(records))
            records += [_record(partition, frame) for frame in found]
            if len(records) >= most:
                break
        self._turn += 1
        return records


def _record(partition: Partition, frame: Frame) -> Record:
    moment = from_ms(frame.timestamp_ms)
    return Record(partition.topic, partition.number, frame.offset, moment, frame.key, frame.value, frame.headers)
