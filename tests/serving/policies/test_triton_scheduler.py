"""The scheduler of several answers on one policy, without Triton: turns, cancellation, the bounded queue, failures."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator

import pytest

from mechanism.errors import AuctionError, InputError, PolicyError
from mechanism.types import Context
from serving.policies.protocol import AnswerLimits, Completed, PolicyEvent, TextDelta
from serving.policies.triton.scheduler import Scheduler
from serving.policies.triton.wire import PolicyRequest, QueueFull

Script = Callable[[Context, int], Generator[PolicyEvent, None, None]]


def count(context: Context, steps: int) -> Generator[PolicyEvent, None, None]:
    yield from (TextDelta(f"{context.id}{i}") for i in range(steps))
    yield Completed((), -1.0, steps, 1)


class Policy:
    """Runs the script; the seed is the number of steps. Waits for `go` before the first step of an answer."""

    digest = "0"

    def __init__(self, script: Script = count) -> None:
        self.script = script
        self.go = threading.Event()
        self.closed: list[str] = []

    def stream(
        self, context: Context, seed: int, max_ads: int, limits: AnswerLimits
    ) -> Generator[PolicyEvent, None, None]:
        self.go.wait(10)
        try:
            yield from self.script(context, seed)
        finally:
            self.closed.append(context.id)


class Reply:
    def __init__(self, log: queue.SimpleQueue[tuple[str, object]], name: str) -> None:
        self.log = log
        self.name = name
        self.cancel_after = 10**9
        self.got = 0

    def event(self, event: PolicyEvent) -> None:
        if self.name == "unreachable":
            raise ConnectionError(self.name)
        self.got += 1
        self.log.put((self.name, event))

    def failed(self, error: AuctionError) -> None:
        if self.name == "unreachable":
            raise ConnectionError(self.name)
        self.log.put((self.name, error))

    def cancelled(self) -> bool:
        return self.got >= self.cancel_after

    def dropped(self) -> None:
        self.log.put((self.name, "dropped"))


class Bench:
    """A scheduler and the events that it wrote, in order."""

    def __init__(self, policy: Policy, slots: int, waiting: int) -> None:
        self.policy = policy
        self.reports: list[str] = []
        self.scheduler = Scheduler(lambda adapter: policy, slots, waiting, self.reports.append)
        self.log: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()

    def ask(self, name: str, steps: int, cancel_after: int | None = None) -> None:
        reply = Reply(self.log, name)
        if cancel_after is not None:
            reply.cancel_after = cancel_after
        self.scheduler.submit(PolicyRequest(Context(name, "", ()), steps, 0), reply)

    def until(self, ends: int) -> list[tuple[str, object]]:
        """The events up to the given number of ends."""
        seen: list[tuple[str, object]] = []
        while sum(not isinstance(what, TextDelta) for _, what in seen) < ends:
            seen.append(self.log.get(timeout=10))
        return seen


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(policy: Policy | None = None, slots: int = 4, waiting: int = 4) -> Bench:
        made.append(Bench(policy or Policy(), slots, waiting))
        return made[-1]

    yield make
    for one in made:
        one.policy.go.set()
        one.scheduler.close()


def test_a_short_answer_overtakes_a_long_one(bench: Callable[..., Bench]) -> None:
    at = bench()
    at.ask("long", 50)
    at.ask("short", 2)
    at.policy.go.set()
    names = [name for name, _ in at.until(ends=2)]
    assert names.index("short") <= 2
    assert names.count("long") == 51
    assert names[-1] == "long"


def test_every_reader_gets_the_whole_answer_in_order(bench: Callable[..., Bench]) -> None:
    at = bench(slots=3, waiting=5)
    for i in range(8):
        at.ask(f"n{i}-", i)
    at.policy.go.set()
    seen = at.until(ends=8)
    for i in range(8):
        mine = [what for name, what in seen if name == f"n{i}-"]
        assert mine == list(count(Context(f"n{i}-", "", ()), i))


def test_a_cancelled_answer_frees_its_slot_at_the_next_step(bench: Callable[..., Bench]) -> None:
    at = bench(slots=1, waiting=1)
    at.ask("gone", 10**6, cancel_after=3)
    at.ask("next", 1)
    at.policy.go.set()
    seen = at.until(ends=2)
    assert [name for name, _ in seen] == ["gone"] * 4 + ["next"] * 2
    assert seen[3] == ("gone", "dropped")
    assert at.policy.closed == ["gone", "next"]


def test_the_queue_is_bounded_and_cancelled_answers_leave_it(bench: Callable[..., Bench]) -> None:
    at = bench(slots=1, waiting=1)
    at.ask("running", 1)
    at.ask("left", 1, cancel_after=0)
    at.ask("waiting", 1)
    with pytest.raises(QueueFull, match="1 wait"):
        at.ask("refused", 1)
    at.policy.go.set()
    ended = [name for name, what in at.until(ends=3) if not isinstance(what, TextDelta)]
    assert ended == ["left", "running", "waiting"]


def test_a_failure_ends_its_own_answer_only_and_quotes_no_question(bench: Callable[..., Bench]) -> None:
    def script(context: Context, steps: int) -> Generator[PolicyEvent, None, None]:
        if context.id == "bad":
            raise InputError("messages", "9 tokens", "shorten them")
        if context.id == "broken":
            raise RuntimeError("the private question")
        yield from count(context, steps)

    at = bench(Policy(script))
    for name in ("bad", "broken", "good"):
        at.ask(name, 2)
    at.policy.go.set()
    ends = dict(x for x in at.until(ends=3) if not isinstance(x[1], TextDelta))
    assert str(ends["bad"]) == "messages: '9 tokens': shorten them"
    assert isinstance(ends["broken"], PolicyError)
    assert "private" not in str(ends["broken"])
    assert isinstance(ends["good"], Completed)
    assert at.reports == ["RuntimeError"]


def test_an_unreachable_reader_does_not_stop_the_others(bench: Callable[..., Bench]) -> None:
    at = bench(slots=1)
    at.ask("unreachable", 5)
    at.ask("near", 1)
    at.policy.go.set()
    assert [name for name, _ in at.until(ends=1)] == ["near", "near"]
    assert at.policy.closed == ["unreachable", "near"]


def unfinished(context: Context, steps: int) -> Generator[PolicyEvent, None, None]:
    yield TextDelta("a")


def test_an_answer_without_an_end_is_an_error(bench: Callable[..., Bench]) -> None:
    at = bench(Policy(unfinished))
    at.policy.go.set()
    at.ask("x", 0)
    assert isinstance(at.until(ends=1)[-1][1], PolicyError)


def test_closing_ends_running_answers_and_refuses_new_ones(bench: Callable[..., Bench]) -> None:
    at = bench(slots=1)
    at.policy.go.set()
    at.ask("endless", 10**9)
    at.ask("queued", 1)
    at.scheduler.close()
    ends = dict(x for x in at.until(ends=2) if not isinstance(x[1], TextDelta))
    assert all(isinstance(end, PolicyError) for end in ends.values())
    with pytest.raises(PolicyError, match="unloaded"):
        at.ask("late", 1)
