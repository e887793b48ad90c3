"""The circuit breaker, driven through random histories and compared with what its rules say in other words."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mechanism.errors import ConfigError
from serving.policies.breaker import Breaker, BreakerSettings

SETTINGS = BreakerSettings(failures=3, cool_s=10.0)


class Histories(RuleBasedStateMachine):
    """One caller at a time; the model keeps the bare history: verdicts in a row, and when the last failure was."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(SETTINGS)
        self.now = 0.0
        self.row = 0
        self.last_failure = 0.0
        self.trial = False

    def should_admit(self) -> bool:
        if self.row < SETTINGS.failures:
            return True
        return not self.trial and self.now - self.last_failure >= SETTINGS.cool_s

    @rule(seconds=st.floats(0.0, 15.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.should_admit())
    @rule()
    def call(self) -> None:
        self.breaker = self.breaker.began()
        self.trial = self.row >= SETTINGS.failures

    @rule()
    def success(self) -> None:
        self.breaker, self.row, self.trial = self.breaker.succeeded(), 0, False

    @rule()
    def failure(self) -> None:
        self.breaker, self.row, self.trial = self.breaker.failed(self.now), self.row + 1, False
        self.last_failure = self.now

    @precondition(lambda self: self.trial)
    @rule()
    def nobody_learns(self) -> None:
        self.breaker, self.trial = self.breaker.abandoned(), False

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.admits(self.now) == self.should_admit()
        assert self.breaker.closed == (self.row < SETTINGS.failures)


TestHistories = Histories.TestCase


def test_after_cooling_exactly_one_caller_may_try() -> None:
    breaker = Breaker(BreakerSettings(failures=1, cool_s=5.0)).failed(100.0)
    assert [breaker.admits(t) for t in (100.0, 104.9, 105.0)] == [False, False, True]
    trying = breaker.began()
    assert not trying.admits(1_000.0)
    assert not trying.failed(106.0).admits(110.9)
    assert trying.failed(106.0).admits(111.0)
    assert trying.succeeded().closed


@pytest.mark.parametrize(("failures", "cool_s"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_settings_that_cannot_be_are_refused(failures: int, cool_s: float) -> None:
    with pytest.raises(ConfigError, match="breaker"):
        BreakerSettings(failures, cool_s)
