"""Who of a consumer group owns which partition, without a coordinator: lock files, which the kernel frees at death.

Each member holds the lock of its own file while it lives, so everybody sees the same list and works out the same
assignment. A partition changes hands through its own lock: the old owner frees it, the new one takes it, and never do
two have it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mechanism.errors import InputError
from mechanism.files import replace_file
from streaming.embedded.files import FileLock
from streaming.log import Partition

_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Membership:
    """One member of a group. `partitions` gives the number of partitions of each of its topics."""

    def __init__(self, root: Path, group: str, partitions: Mapping[str, int], *, durable: bool) -> None:
        self._folder = group_folder(root, group)
        self._partitions = dict(partitions)
        self._durable = durable
        self.owned: dict[Partition, FileLock] = {}
        for name in ("members", "joining", "owners", "offsets"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._id = uuid.uuid4().hex
        joining = self._folder / "joining" / self._id
        joining.write_text(json.dumps(sorted(self._partitions)), encoding="utf-8")
        self._alive = FileLock(joining)
        self._alive.take(wait=True)
        # Visible only now, locked and whole: a file in `members` that is free belongs to a member that died.
        joining.rename(self._folder / "members" / self._id)

    def wanted(self) -> frozenset[Partition]:
        """What this member should own among those that are alive."""
        topics = self._members()
        found = []
        for topic, count in self._partitions.items():
            members = sorted(member for member, own in topics.items() if topic in own)
            rank = members.index(self._id)
            found += [Partition(topic, n) for n in range(count) if n % len(members) == rank]
        return frozenset(found)

    def take(self, partition: Partition) -> bool:
        """Owns a partition from now on; False while another member still does."""
        lock = FileLock(self._folder / "owners" / _name(partition))
        if lock.take(wait=False):
            self.owned[partition] = lock
        return lock.held

    def give_up(self, partitions: Iterable[Partition]) -> None:
        """Lets others own them."""
        for partition in partitions:
            self.owned.pop(partition).free()

    def committed(self, partition: Partition) -> int | None:
        """Where the group goes on reading."""
        return committed_offset(self._folder, partition)

    def commit(self, partition: Partition, offset: int) -> None:
        """Writes where the group goes on reading; only an owner may."""
        replace_file(self._folder / "offsets" / _name(partition), str(offset).encode(), durable=self._durable)

    def leave(self) -> None:
        """Gives up everything, and the membership."""
        self.give_up(list(self.owned))
        with suppress(FileNotFoundError):
            (self._folder / "members" / self._id).unlink()
        self._alive.free()

    def _members(self) -> dict[str, Sequence[str]]:
        """Topics by living member; files of dead ones are removed."""
        found: dict[str, Sequence[str]] = {self._id: list(self._partitions)}
        for path in (self._folder / "members").iterdir():
            if path.name == self._id:
                continue
            if _is_dead(path):
                path.unlink(missing_ok=True)
                continue
            with suppress(FileNotFoundError):
                found[path.name] = json.loads(path.read_text("utf-8"))
        return found


def group_folder(root: Path, group: str) -> Path:
    """What belongs to a group. Raises InputError for a name that none can have."""
    if not _GROUP.fullmatch(group):
        raise InputError("group", group, "use letters, digits, '.', '_' and '-', 100 at most")
    return root / "groups" / group


def committed_offset(folder: Path, partition: Partition) -> int | None:
    """Where a group goes on reading, None where it never committed."""
    try:
        return int((folder / "offsets" / _name(partition)).read_text("ascii"))
    except FileNotFoundError:
        return None


def _is_dead(path: Path) -> bool:
    lock = FileLock(path)
    if not lock.take(wait=False, create=False):
        return False
    lock.free()
    return True


def _name(partition: Partition) -> str:
    return f"{partition.topic}-{partition.number}"
