"""A watch that is interrupted, falls behind or is refused keeps its store correct."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.cache import Cache, Current
from operators.informer import Informer, Watched
from operators.kube import USED, ApiError
from operators.resources.base import Manifest
from operators.store import Store
from operators.watched import IRPOJOBS, JOBS_OF_IRPOJOBS, JOBS_OF_POLICIES, NODES, OBJECTS_OF_SERVICES, PODS

LABEL = "of"


def item(name: str, version: int = 1, of: str | None = "a", **content: Any) -> Manifest:
    labels = {} if of is None else {LABEL: of}
    meta = {"name": name, "namespace": "n", "resourceVersion": str(version), "labels": labels}
    return {"metadata": meta, **content}


def event(type_: str, what: Manifest) -> Manifest:
    return {"type": type_, "object": what}


class Script:
    """An API server that answers one list or watch after the other as the test says."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def list_all(self, version: str, kind: str, namespace: str | None, labels: str) -> tuple[list[Manifest], str]:
        self.asked.append("list")
        answer = self.answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer, "10"

    def watch(self, version: str, kind: str, namespace: str | None, labels: str, since: str) -> Iterator[Manifest]:
        self.asked.append(f"watch from {since}")
        for answer in self.answers.pop(0) if self.answers else []:
            if isinstance(answer, ApiError):
                raise answer
            yield answer

    def serves(self, group: str) -> bool:
        self.asked.append(group)
        return group == "served"


def informer(script: Script) -> tuple[Informer, list[tuple[str | None, str | None]]]:
    changes: list[tuple[str | None, str | None]] = []

    def changed(before: Manifest | None, after: Manifest | None) -> None:
        changes.append(tuple(one and one["metadata"]["resourceVersion"] for one in (before, after)))  # type: ignore[arg-type]

    watched = Watched("v1", "Pod", lambda one: one, LABEL)
    return Informer(script, watched, "n", changed, threading.Event()), changes


def test_events_keep_the_store_current() -> None:
    script = Script([item("x", 1)], [event("MODIFIED", item("x", 11)), event("ADDED", item("y", 12))])
    one, changes = informer(script)
    one.follow()
    assert one.synced.is_set()
    assert [found["metadata"]["resourceVersion"] for found in one.store.with_label("n", "a")] == ["11", "12"]
    assert changes == [(None, "1"), ("1", "11"), (None, "12")]


def test_a_watch_that_ends_continues_from_the_last_version_or_bookmark() -> None:
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "40"}})
    script = Script([], [event("ADDED", item("x", 30)), bookmark], [event("DELETED", item("x", 41))])
    one, changes = informer(script)
    one.follow()
    one.follow()
    assert script.asked == ["list", "watch from 10", "watch from 40"]
    assert one.store.known() == []
    assert changes == [(None, "30"), ("30", None)]


def test_a_version_that_is_too_old_is_listed_again_and_deletions_are_noticed() -> None:
    script = Script([item("x", 1), item("y", 2)], [ApiError(410, "too old")], [item("y", 20), item("z", 21)], [])
    one, changes = informer(script)
    with pytest.raises(ApiError) as gone:
        one.follow()
    one._note_failure(gone.value)  # as its thread does
    one.follow()
    assert one.store.known() == [("n", "y"), ("n", "z")]
    assert changes[2:] == [("1", None), ("2", "20"), (None, "21")]


def test_an_interruption_loses_nothing() -> None:
    script = Script([], [event("ADDED", item("x", 30)), ApiError(0, "reset")], [event("MODIFIED", item("x", 31))])
    one, _ = informer(script)
    with pytest.raises(ApiError):
        one.follow()
    one.follow()
    assert script.asked[-1] == "watch from 30"


def test_refused_credentials_are_noticed_and_forgotten_after_a_success() -> None:
    one, _ = informer(Script([]))
    one._note_failure(ApiError(401, "unauthorized"))
    since = one.unauthorised_since
    one._note_failure(ApiError(401, "unauthorized"))
    assert since is not None
    assert one.unauthorised_since == since
    one.follow()
    assert one.unauthorised_since is None


KEYS = st.sampled_from(["x", "y", "z"])
CHANGES = st.lists(st.tuples(KEYS, st.sampled_from(["a", "b", None, "gone"])), max_size=40)


@given(CHANGES)
def test_the_index_of_a_store_is_that_of_its_objects(changes: list[tuple[str, str | None]]) -> None:
    store, expected = Store(LABEL, lambda one: one), dict[str, str | None]()
    for name, of in changes:
        if of == "gone":
            assert (store.remove(("n", name)) is not None) == (expected.pop(name, "none") != "none")
        else:
            store.put(item(name, of=of))
            expected[name] = of
    for value in ("a", "b"):
        names = [one["metadata"]["name"] for one in store.with_label("n", value)]
        assert names == sorted(name for name, of in expected.items() if of == value)
        assert store.with_label("other", value) == []
    assert {name for _, name in store.known()} == set(expected)


def test_a_reader_cannot_change_the_cache() -> None:
    store = Store(LABEL, lambda one: one)
    store.put(item("x"))
    found = store.get(("n", "x"))
    assert found is not None
    found["metadata"]["name"] = "y"
    assert store.get(("n", "x")) == item("x")


def test_what_is_kept_of_objects_suffices_and_no_more() -> None:
    [of_jobs, *_] = PODS
    pod = item("p", spec={"nodeName": "n1", "containers": [{"name": "a"}]}, status={"phase": "Running"})
    pod["metadata"]["managedFields"] = [{}]
    assert of_jobs.trim(pod) == item("p", spec={"nodeName": "n1"}, status={"phase": "Running"})
    job = item("j", spec={"suspend": True, "template": {}}, status={"ready": 1})
    assert JOBS_OF_IRPOJOBS.trim(job) == item("j", spec={"suspend": True}, status={"ready": 1})
    ready, other = {"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}
    node = {"metadata": {"name": "n1", "labels": {}}, "status": {"conditions": [other, ready], "images": []}}
    assert NODES.trim(node) == {"metadata": {"name": "n1"}, "status": {"conditions": [ready]}}


def test_every_watched_kind_may_be_listed_and_watched() -> None:
    for one in (IRPOJOBS, NODES, JOBS_OF_IRPOJOBS, JOBS_OF_POLICIES, *PODS, *OBJECTS_OF_SERVICES):
        assert {"list", "watch"} <= set(USED[one.version, one.kind].verbs)


def test_a_cache_reads_the_collections_of_its_namespaces() -> None:
    watched = Watched("v1", "Pod", lambda one: one, LABEL)
    nodes = Watched("v1", "Node", lambda one: one, all_objects=True)
    cache = Cache(Script(), {watched: None, nodes: None}, ["n", "m"])
    assert [(one.watched.kind, one.namespace) for one in cache.informers] == [
        ("Pod", "n"),
        ("Pod", "m"),
        ("Node", None),
    ]
    cache.informers[0].store.put(item("x"))
    cache.informers[2].store.put({"metadata": {"name": "node"}})
    assert cache.list("v1", "Pod", "n", f"{LABEL}=a") == [item("x")]
    assert cache.list("v1", "Pod", "m", f"{LABEL}=a") == []
    assert not cache.synced()

    class Api:
        def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
            return {"from": "the API server"}

        def list(self, version: str, kind: str, namespace: str | None, labels: str) -> list[Manifest]:
            return [{"from": "the API server"}]

        def serves(self, group: str) -> bool:
            return group == "served"

    current = Current(Api(), cache)
    assert current.get("v1", "Node", None, "node") == {"metadata": {"name": "node"}}
    assert current.get("v1", "Node", None, "unknown") == {"from": "the API server"}
    assert current.list("v1", "Pod", "n", f"{LABEL}=a") == [{"from": "the API server"}]


def test_a_cache_asks_for_an_api_group_once_in_a_while() -> None:
    script = Script()
    cache = Cache(script, {}, [])
    assert [cache.serves("served"), cache.serves("served"), cache.serves("other")] == [True, True, False]
    assert script.asked == ["served", "other"]
