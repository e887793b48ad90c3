"""How a command ends: its exit status, the error line on stderr, and the signals that ask it to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import typer

from mechanism.errors import AuctionError, BusyError, DeviceMemoryError, GuardError, InputError, PolicyError

EXIT_FAILED = 1
"""A failure that may not occur again when the command is repeated."""
EXIT_BAD_INPUT = 2
"""An invalid input, setting or option: repeating the command does not help."""
EXIT_GUARD = 3
"""A guard stopped a training run."""
EXIT_OUT_OF_MEMORY = 4
"""The model and its batch do not fit into the device's memory."""


def exit_status(error: AuctionError) -> int:
    """Return the exit status for an error, by which the caller decides whether to repeat the command."""
    match error:
        case BusyError():
            return EXIT_FAILED
        case InputError() | PolicyError():
            return EXIT_BAD_INPUT
        case GuardError():
            return EXIT_GUARD
        case DeviceMemoryError():
            return EXIT_OUT_OF_MEMORY
        case _:
            return EXIT_FAILED


def print_error(message: str) -> None:
    """Print one red line on stderr (uncoloured where stderr is not a terminal)."""
    typer.secho("error: " + " ".join(message.split()), fg=typer.colors.RED, err=True)


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and Ctrl+C set."""
    stop = threading.Event()

    def request_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    return stop
