"""What is no longer kept: whole segments past their time or already read, and older records of a key.

Only segments that nothing is written to any more are touched, under the partition's lock. A reader that has one open
goes on reading it; offsets never change, so a compacted segment merely has gaps.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from mechanism.files import replace_file, sync_folder
from streaming.embedded.frames import decode_frame, whole_frames
from streaming.embedded.segments import bases, damaged, segment_path


def expire(folder: Path, before_ms: int) -> int:
    """Removes the oldest segments whose newest record is older; how many. Called under the lock."""
    removed = 0
    for base in bases(folder)[:-1]:
        data = _whole(segment_path(folder, base))
        last = max((decode_frame(data, start).timestamp_ms for start, _ in whole_frames(data)), default=0)
        if last >= before_ms:
            break
        segment_path(folder, base).unlink()
        removed += 1
    return removed


def trim(folder: Path, offset: int) -> int:
    """Removes the segments that hold nothing from `offset` on; how many. Called under the lock."""
    known = bases(folder)
    gone = [base for base, after in pairwise(known) if after <= offset]
    for base in gone:
        segment_path(folder, base).unlink()
    return len(gone)


def compact(folder: Path, tombstones_before_ms: int) -> int:
    """Leaves the newest record of each key in the ended segments; how many records went. Records without value go,
    too, once they are older than `tombstones_before_ms`, so that readers had time to see them. Called under the lock.
    """
    known = bases(folder)
    newest: dict[bytes, int] = {}
    for base in known:
        data = segment_path(folder, base).read_bytes()
        for start, _ in whole_frames(data):
            frame = decode_frame(data, start)
            newest[frame.key] = frame.offset
    removed = 0
    for base in known[:-1]:
        path = segment_path(folder, base)
        data, kept, dropped = _whole(path), [], 0
        for start, end in whole_frames(data):
            frame = decode_frame(data, start)
            stale = frame.value is None and frame.timestamp_ms < tombstones_before_ms
            if newest[frame.key] == frame.offset and not stale:
                kept.append(data[start:end])
            else:
                dropped += 1
        if dropped:
            replace_file(path, b"".join(kept))
            removed += dropped
    if removed:
        sync_folder(folder)
    return removed


def _whole(path: Path) -> bytes:
    data = path.read_bytes()
    end = max((end for _, end in whole_frames(data)), default=0)
    if end != len(data):
        raise damaged(path, end)
    return data
