"""The ad load: one factor on all shown bids, which a slow controller adjusts to hold a user-experience target.

It drives `mechanism.prompt.PromptSettings.ad_load`. Charges do not depend on it: a click still pays its bid. The caller
chooses and measures the signal; this module turns a measurement into the next factor.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mechanism.errors import ConfigError
from serving.settings import AdLoadSettings


@dataclass(frozen=True, slots=True)
class AdLoadState:
    """The controller's state, kept on disk so that a restart continues from it.

    `load` is the factor in use. `log_load` is the unrounded output and `integral` its integral part, both as natural
    logarithms.
    """

    log_load: float = 0.0
    integral: float = 0.0
    load: float = 1.0


def next_load(
    state: AdLoadState, measured: float, answers: int, elapsed_s: float, settings: AdLoadSettings
) -> AdLoadState:
    """Return the state after a measurement of `answers` answers over the last `elapsed_s` seconds.

    A proportional-integral controller on the logarithm of the factor, since a factor acts by its ratio. Against wind-up
    the integral is reset to the value that yields the bounded, rate-limited output (back-calculation).

    Raises:
        ConfigError: if `measured` is not finite or `elapsed_s` is not above 0.
    """
    if not math.isfinite(measured):
        raise ConfigError("measured", measured, "give a finite number")
    if not elapsed_s > 0:
        raise ConfigError("elapsed_s", elapsed_s, "give the seconds since the last measurement, above 0")
    if answers < settings.least_answers:
        return state
    sign = 1.0 if settings.direction == "rises" else -1.0
    error = sign * (settings.target - measured) / settings.target
    error = max(-1.0, min(1.0, error))  # one outlier must not determine the next hours
    proportional = settings.gain * error
    integral = state.integral + proportional * elapsed_s / settings.reset_s
    largest_change = settings.fastest_per_hour * elapsed_s / 3_600
    log_load = max(state.log_load - largest_change, min(state.log_load + largest_change, integral + proportional))
    log_load = max(math.log(settings.lowest), min(math.log(settings.highest), log_load))
    if log_load != integral + proportional:
        integral = log_load - proportional
    return AdLoadState(log_load, integral, _rounded(math.exp(log_load), state.load, settings))


def _rounded(load: float, used: float, settings: AdLoadSettings) -> float:
    """Round to whole steps, with hysteresis: the factor changes only if the output is over 3/4 of a step away."""
    if abs(load - used) <= 0.75 * settings.step:
        return used
    return max(settings.lowest, min(settings.highest, round(round(load / settings.step) * settings.step, 9)))


def read_state(path: Path) -> AdLoadState:
    """Read the state that an earlier process saved; a new state if there is no readable file."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=AdLoadState)
    return AdLoadState()
