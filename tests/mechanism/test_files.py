"""Atomic file replacement: old or new contents, never a part, and nothing left behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mechanism.files import replace_file


@pytest.mark.parametrize("durable", [True, False])
def test_contents_are_replaced_and_folders_created(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "state.json"
    for data in (b"old", b"new, and longer"):
        replace_file(path, data, durable=durable)
        assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["state.json"]


def test_a_failed_replacement_keeps_the_old_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("mechanism.files.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_concurrent_writers_never_leave_a_mixture(tmp_path: Path) -> None:
    path, contents = tmp_path / "state", [bytes([65 + n]) * 10_000 * (n + 1) for n in range(4)]
    replace_file(path, contents[0])
    threads = [threading.Thread(target=replace_file, args=(path, data)) for data in contents * 3]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in contents
    assert path.read_bytes() in contents
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
