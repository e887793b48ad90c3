"""The global ad load: one factor on all shown bids, held by a slow controller at a user-experience target.

It drives `mechanism.prompt.PromptSettings.ad_load`. Charges know nothing of it: a click still pays its bid. What is
measured, and from which events, is the caller's; this module only turns a measurement into the next factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mechanism.errors import ConfigError
from mechanism.prompt import PromptSettings
from serving.settings import AdLoadSettings


@dataclass(frozen=True, slots=True)
class AdLoadState:
    """The factor in use is `load`; `log_load` is the controller's unrounded output, `integral` its slow part, both as
    natural logarithms. Three numbers: kept with the other state so that a restart goes on where it was."""

    log_load: float = 0.0
    integral: float = 0.0
    load: float = 1.0

    def apply(self, prompt: PromptSettings) -> PromptSettings:
        """The prompt settings under this ad load."""
        return replace(prompt, ad_load=self.load)


def next_load(
    state: AdLoadState, measured: float, answers: int, elapsed_s: float, settings: AdLoadSettings
) -> AdLoadState:
    """The state after a measurement of `answers` answers over the last `elapsed_s` seconds.

    Proportional-integral in the logarithm of the factor, since a factor acts by its ratio. Against wind-up the integral
    is set back to what the bounded, slowed output stands for (back-calculation). Raises ConfigError for a measurement
    that is not finite and for a time that does not pass.
    """
    if not math.isfinite(measured):
        raise ConfigError("measured", measured, "give a finite number")
    if not elapsed_s > 0:
        raise ConfigError("elapsed_s", elapsed_s, "give the seconds since the last measurement, above 0")
    if answers < settings.least_answers:
        return state
    sign = 1.0 if settings.direction == "rises" else -1.0
    error = sign * (settings.target - measured) / settings.target
    error = max(-1.0, min(1.0, error))  # one wild measurement must not rule the next hours
    proportional = settings.gain * error
    integral = state.integral + proportional * elapsed_s / settings.reset_s
    room = settings.fastest_per_hour * elapsed_s / 3_600
    log_load = max(state.log_load - room, min(state.log_load + room, integral + proportional))
    log_load = max(math.log(settings.lowest), min(math.log(settings.highest), log_load))
    if log_load != integral + proportional:
        integral = log_load - proportional
    return AdLoadState(log_load, integral, _in_steps(math.exp(log_load), state.load, settings))


def _in_steps(load: float, used: float, settings: AdLoadSettings) -> float:
    """The factor to use, in whole steps; it moves only when the output is more than three quarters of a step away."""
    if abs(load - used) <= 0.75 * settings.step:
        return used
    return max(settings.lowest, min(settings.highest, round(round(load / settings.step) * settings.step, 9)))
