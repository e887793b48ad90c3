"""`python -m cli.local.child PARENT NICE ARGUMENTS...`: run a command in a child process that ends with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, nice: int, arguments: list[str]) -> None:
    """Run `llm-auction ARGUMENTS` at the given niceness, unless the parent has already ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
    if nice:
        os.nice(nice)
    from cli.main import app

    sys.argv = ["llm-auction", *arguments]  # as the command itself would find it
    app(arguments)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
