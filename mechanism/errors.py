"""The project's exceptions. Every message names the place, the value and the remedy.

AuctionError
├── InputError              a file, row, field, argument or environment variable that the user can correct
│   ├── ConfigError         a setting of a configuration
│   └── BusyError           another process holds the resource; a later attempt may succeed
├── JudgeError              the judge's endpoint failed or kept replying outside its schema
│   └── BudgetSpentError    the judge's budget does not cover the next call
├── PolicyError             a language model could not be loaded or could not answer
├── DeviceMemoryError       a model and its batch do not fit the device's memory
└── GuardError              a training guard stopped the run; the last good epoch is kept
"""

from __future__ import annotations


class AuctionError(Exception):
    """Base of all exceptions that this project raises deliberately."""


class InputError(AuctionError):
    """Bad input: `place` (file:line, field, variable), the offending `value`, and the `remedy`."""

    def __init__(self, place: str, value: object, remedy: str) -> None:
        self.place = place
        self.value = value
        self.remedy = remedy
        shown = repr(value)
        super().__init__(f"{place}: {shown if len(shown) <= 120 else shown[:117] + '...'}: {remedy}")


class ConfigError(InputError):
    """A setting is missing, unknown or out of range."""


class BusyError(InputError):
    """Another process holds the requested resource; a later attempt may succeed."""


class JudgeError(AuctionError):
    """The judge's endpoint failed after all retries, or kept replying outside the schema."""


class BudgetSpentError(JudgeError):
    """The judge's budget does not cover the highest possible price of the next call."""


class PolicyError(AuctionError):
    """A policy (language model) could not be loaded or could not produce an answer."""


class DeviceMemoryError(AuctionError):
    """A model and its batch do not fit the memory of their device."""


class GuardError(AuctionError):
    """A training guard stopped the run: `guard` is its name, `evidence` the figures that triggered it."""

    def __init__(self, guard: str, message: str, evidence: dict[str, float]) -> None:
        self.guard = guard
        self.evidence = evidence
        figures = ", ".join(f"{k}={v:.4g}" for k, v in evidence.items())
        super().__init__(f"guard {guard}: {message} ({figures})")


def whole_number(place: str) -> str:
    """Return the remedy for a value of `place` that is no whole number; amounts are in micros."""
    return "give a whole number" + (" of micros: 1000000 is 1 unit of the currency" if "micros" in place else "")
