"""The circuit breaker and the retries: random histories compared with a model, and the pauses between attempts."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mechanism.errors import ConfigError
from serving.errors import PolicyTimeout
from serving.policies.breaker import Breaker, BreakerSettings
from serving.policies.calls import CallSettings, ServerCalls, ServerDown

SETTINGS = BreakerSettings(failures=3, cooldown_s=10.0)


class Histories(RuleBasedStateMachine):
    """One caller at a time. The model is the bare history: consecutive failures, and the time of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(SETTINGS)
        self.now = 0.0
        self.failures = 0
        self.last_failure = 0.0
        self.probe = False

    def should_allow(self) -> bool:
        if self.failures < SETTINGS.failures:
            return True
        return not self.probe and self.now - self.last_failure >= SETTINGS.cooldown_s

    @rule(seconds=st.floats(0.0, 15.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.should_allow())
    @rule()
    def call(self) -> None:
        self.breaker = self.breaker.started()
        self.probe = self.failures >= SETTINGS.failures

    @rule()
    def success(self) -> None:
        self.breaker, self.failures, self.probe = self.breaker.succeeded(), 0, False

    @rule()
    def failure(self) -> None:
        self.breaker, self.failures, self.probe = self.breaker.failed(self.now), self.failures + 1, False
        self.last_failure = self.now

    @precondition(lambda self: self.probe)
    @rule()
    def probe_without_result(self) -> None:
        self.breaker, self.probe = self.breaker.abandoned(), False

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.allows(self.now) == self.should_allow()
        assert self.breaker.closed == (self.failures < SETTINGS.failures)


TestHistories = Histories.TestCase


def test_after_the_cooldown_exactly_one_call_may_probe() -> None:
    breaker = Breaker(BreakerSettings(failures=1, cooldown_s=5.0)).failed(100.0)
    assert [breaker.allows(t) for t in (100.0, 104.9, 105.0)] == [False, False, True]
    probing = breaker.started()
    assert not probing.allows(1_000.0)
    assert not probing.failed(106.0).allows(110.9)
    assert probing.failed(106.0).allows(111.0)
    assert probing.succeeded().closed


@pytest.mark.parametrize(("failures", "cooldown_s"), [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_invalid_breaker_settings_are_refused(failures: int, cooldown_s: float) -> None:
    with pytest.raises(ConfigError, match="breaker"):
        BreakerSettings(failures, cooldown_s)


@pytest.mark.parametrize("wrong", [{"retries": -1}, {"backoff_s": -1.0}, {"silence_s": -1.0}, {"probe_s": 0.0}])
def test_invalid_call_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="calls"):
        CallSettings(**wrong)  # type: ignore[arg-type]


class Attempts:
    """Fails with the given errors in turn, then returns its number."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> int:
        self.times.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return len(self.times)


def begin(attempts: Attempts, seconds: float = 10.0, **settings: float) -> int:
    async def run() -> int:
        calls = ServerCalls("a server", CallSettings(**settings))  # type: ignore[arg-type]
        return await calls.begin(attempts, asyncio.get_running_loop().time() + seconds)

    return asyncio.run(run())


def test_a_failed_connection_is_retried_after_doubled_random_pauses() -> None:
    attempts = Attempts(ServerDown("1"), ServerDown("2"))
    assert begin(attempts, retries=2, backoff_s=0.04) == 3
    first, second = (later - sooner for sooner, later in zip(attempts.times, attempts.times[1:], strict=False))
    assert first >= 0.02
    assert second >= 0.04


def test_retries_end_with_their_number_with_the_deadline_and_with_any_other_error() -> None:
    with pytest.raises(ServerDown, match="3"):
        begin(Attempts(*(ServerDown(str(i)) for i in range(1, 9))), retries=2, backoff_s=0.0)
    with pytest.raises(ServerDown, match="1"):
        begin(Attempts(ServerDown("1")), seconds=0.01, retries=2, backoff_s=1.0)
    late = Attempts(PolicyTimeout("late"))
    with pytest.raises(PolicyTimeout):
        begin(late, retries=2)
    assert len(late.times) == 1
