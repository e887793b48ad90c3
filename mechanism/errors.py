"""The project's one exception tree. Every error names the place, the value and the remedy.

AuctionError
├── InputError          a file, row, field, argument or environment variable that a person can mend
│   ├── ConfigError     a setting of a configuration
│   └── BusyError       another process holds it; later it may be free
├── JudgeError          the judge's endpoint failed or kept answering outside its schema
├── PolicyError         a language model could not be loaded or could not answer
├── DeviceMemoryError   a model and its batch do not fit the device's memory
└── GuardError          a training guard stopped the run; the last good epoch is kept
"""

from __future__ import annotations


class AuctionError(Exception):
    """Base of all errors that this project raises on purpose."""


class InputError(AuctionError):
    """Bad input: `place` (file:line, field, variable), the offending `value`, and what to do about it."""

    def __init__(self, place: str, value: object, remedy: str) -> None:
        self.place = place
        self.value = value
        self.remedy = remedy
        shown = repr(value)
        super().__init__(f"{place}: {shown if len(shown) <= 120 else shown[:117] + '...'}: {remedy}")


class ConfigError(InputError):
    """A setting is missing, unknown or out of range."""


class BusyError(InputError):
    """Another process holds what was asked for; it may be asked for again."""


class JudgeError(AuctionError):
    """The judge's endpoint failed for good, or kept answering outside the schema."""


class PolicyError(AuctionError):
    """A policy (language model) could not be loaded or could not produce an answer."""


class DeviceMemoryError(AuctionError):
    """A model and its batch do not fit the memory of the device that they were to run on."""


class GuardError(AuctionError):
    """A training guard fired: `guard` is its name, `evidence` the figures that made it fire."""

    def __init__(self, guard: str, message: str, evidence: dict[str, float]) -> None:
        self.guard = guard
        self.evidence = evidence
        figures = ", ".join(f"{k}={v:.4g}" for k, v in evidence.items())
        super().__init__(f"guard {guard}: {message} ({figures})")
