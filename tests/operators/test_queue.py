"""Keys are looked at when they are due, one look at a time, and a hundred events are one look."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.workqueue import Queue


def taken(queue: Queue[str]) -> str:
    found = queue.take()
    assert found is not None
    return found[0]


def test_many_events_are_one_look() -> None:
    queue: Queue[str] = Queue()
    for _ in range(100):
        queue.add("a")
    queue.add("b")
    assert [taken(queue), taken(queue)] == ["a", "b"]
    queue.done("a")
    queue.done("b")
    assert len(queue) == 0


def test_an_event_during_a_look_makes_another_one_after_it() -> None:
    queue: Queue[str] = Queue()
    queue.add("a")
    assert taken(queue) == "a"
    queue.add("a")
    queue.add("b")
    assert taken(queue) == "b", "a is being looked at"
    queue.done("a")
    assert taken(queue) == "a"


def test_the_earlier_of_two_times_counts() -> None:
    queue: Queue[str] = Queue()
    queue.add("late", 3600)
    queue.add("a", 3600)
    queue.add("a")
    queue.add("a", 7200)
    assert taken(queue) == "a"
    queue.done("a")
    assert len(queue) == 1


def test_who_waits_goes_home_when_it_is_closed() -> None:
    queue: Queue[str] = Queue()
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(queue.take()))
    waiting.start()
    queue.close()
    waiting.join(10)
    assert found == [None]


@pytest.mark.timeout(60)
@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_no_key_is_looked_at_twice_at_once_and_none_is_forgotten(keys: list[str]) -> None:
    queue: Queue[str] = Queue()
    now: Counter[str] = Counter()
    seen: set[str] = set()
    guard = threading.Lock()

    def work() -> None:
        while (found := queue.take()) is not None:
            with guard:
                now[found[0]] += 1
                assert now[found[0]] == 1
                seen.add(found[0])
            with guard:
                now[found[0]] -= 1
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
    assert seen == set(keys)
