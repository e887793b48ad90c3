"""`python -m cli.local.child PARENT NICE WORDS...`: run a command as a child that ends with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_DIE_WITH_PARENT = 1


def main(parent: int, nice: int, words: list[str]) -> None:
    """Runs `llm-auction WORDS`; where `parent` is gone already, nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:
            return
    if nice:
        os.nice(nice)
    from cli.main import app

    app(words)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
