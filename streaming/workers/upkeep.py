"""Maintenance of the lake's tables at intervals, in a thread beside the worker that fills them."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import structlog

from mechanism.errors import AuctionError
from streaming.lake.maintenance import Maintenance, maintain, merge
from streaming.lake.store import Lake

log = structlog.get_logger(__name__)


MERGE_S = 300.0
"""Interval at which the files of recent commits are merged: queries and commits take longer with each file."""


class Upkeep:
    """Maintains the tables every `every_s` seconds while its context is entered, and merges small files in between."""

    def __init__(self, lake: Lake, settings: Maintenance, every_s: float) -> None:
        self._lake, self._settings, self._every_s = lake, settings, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lake-upkeep")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop after the current step."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        # wait first: a worker that restarts repeatedly fills the tables before it maintains them
        maintain_at = time.monotonic() + self._every_s
        while not self._stop.wait(min(MERGE_S, self._every_s)):
            try:
                if time.monotonic() < maintain_at:
                    log.info("lake.merged", files=merge(self._lake))
                    continue
                maintain_at = time.monotonic() + self._every_s
                log.info("lake.maintained", **maintain(self._lake, self._settings, stop=self._stop).to_dict())
            except AuctionError as error:
                # another writer was faster, or the store is unreachable: the next pass tries again
                log.warning("lake.maintenance_failed", reason=str(error)[:300])
