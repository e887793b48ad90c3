"""The work queue: keys are due in time, deduplicated, and never with two threads at once."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.workqueue import Queue


def take(queue: Queue[str]) -> str:
    taken = queue.take()
    assert taken is not None
    return taken[0]


def test_many_events_lead_to_one_pass() -> None:
    queue: Queue[str] = Queue()
    for _ in range(100):
        queue.add("a")
    queue.add("b")
    assert [take(queue), take(queue)] == ["a", "b"]
    queue.done("a")
    queue.done("b")
    assert len(queue) == 0


def test_an_event_during_a_pass_leads_to_another_one_after_it() -> None:
    queue: Queue[str] = Queue()
    queue.add("a")
    assert take(queue) == "a"
    queue.add("a")
    queue.add("b")
    assert take(queue) == "b", "a is taken"
    queue.done("a")
    assert take(queue) == "a"


def test_the_earlier_of_two_times_counts() -> None:
    queue: Queue[str] = Queue()
    queue.add("late", 3600)
    queue.add("a", 3600)
    queue.add("a")
    queue.add("a", 7200)
    assert take(queue) == "a"
    queue.done("a")
    assert len(queue) == 1


def test_close_releases_a_waiting_thread() -> None:
    queue: Queue[str] = Queue()
    results: list[object] = []
    waiting = threading.Thread(target=lambda: results.append(queue.take()))
    waiting.start()
    queue.close()
    waiting.join(10)
    assert results == [None]


@pytest.mark.timeout(60)
@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_every_key_is_taken_and_none_twice_at_once(keys: list[str]) -> None:
    queue: Queue[str] = Queue()
    active: Counter[str] = Counter()
    taken: set[str] = set()
    guard = threading.Lock()

    def work() -> None:
        while (found := queue.take()) is not None:
            with guard:
                active[found[0]] += 1
                assert active[found[0]] == 1
                taken.add(found[0])
            with guard:
                active[found[0]] -= 1
            queue.done(found[0])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for key in keys:
        queue.add(key)
    while len(queue):
        pass
    queue.close()
    for thread in threads:
        thread.join()
    assert taken == set(keys)
