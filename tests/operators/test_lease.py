"""Leader election: whichever requests fail and however the replicas are delayed, no two may write at one time."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.kube import ApiError
from operators.lease import DURATION_S, RENEW_S, RETRY_S, Lease
from operators.resources.base import Manifest


@dataclass
class Server:
    """An API server with one Lease and a clock. A request fails as `fault` says: before it is done, or after it."""

    now: float = 0.0
    item: Manifest | None = None
    version: int = 0
    fault: str = ""
    delay: float = 0.0
    writes: list[str] = field(default_factory=list)

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        if self.fault == "unreachable":
            raise ApiError(0, "no answer")
        return copy.deepcopy(self.item)

    def create(self, manifest: Manifest) -> None:
        if self.item is not None:
            raise ApiError(409, "exists")
        self._write(manifest)

    def replace(self, manifest: Manifest) -> None:
        assert self.item is not None
        if manifest["metadata"]["resourceVersion"] != self.item["metadata"]["resourceVersion"]:
            raise ApiError(409, "changed")
        self._write(manifest)

    def _write(self, manifest: Manifest) -> None:
        self.now += self.delay  # between what was read and what is written
        if self.fault == "lost request":
            raise ApiError(0, "no answer")
        self.version += 1
        self.item = copy.deepcopy(manifest)
        self.item["metadata"]["resourceVersion"] = str(self.version)
        self.writes.append(self.item["spec"]["holderIdentity"])
        if self.fault == "lost answer":
            raise ApiError(0, "no answer")


def replicas(server: Server, count: int = 2, offset: float = 0.0) -> list[Lease]:
    """Return replicas whose clocks begin at different numbers."""
    return [
        Lease(server, "ours", "operator", f"replica-{number}", lambda number=number: server.now + number * offset)  # type: ignore[misc]
        for number in range(count)
    ]


def attempt(lease: Lease) -> None:
    with suppress(ApiError):
        lease.attempt()


def holders(leases: list[Lease]) -> list[str]:
    return [one.identity for one in leases if one.held()]


FAULTS = st.sampled_from(["", "", "", "unreachable", "lost request", "lost answer"])
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.floats(0, 6), FAULTS, st.sampled_from([0.0, 0.0, 0.5, 4.0])), max_size=60
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.floats(-1000, 1000))
def test_no_two_replicas_may_write_at_one_time(steps: list[tuple[int, float, str, float]], offset: float) -> None:
    server = Server()
    leases = replicas(server, 3, offset)
    for number, seconds, fault, delay in steps:
        server.now += seconds
        assert len(holders(leases)) <= 1
        server.fault, server.delay = fault, delay
        attempt(leases[number])
        assert len(holders(leases)) <= 1
        held_by = holders(leases)
        if held_by and server.item is not None:
            assert server.item["spec"]["holderIdentity"] == held_by[0], "who may write is who the Lease names"


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_whatever_happened_a_live_replica_leads_within_the_lease(steps: list[tuple[int, float, str, float]]) -> None:
    server = Server()
    leases = replicas(server, 3)
    for number, seconds, fault, delay in steps:
        server.now += seconds
        server.fault, server.delay = fault, delay
        attempt(leases[number])
    server.fault, server.delay = "", 0.0
    end = server.now + DURATION_S + 2 * RETRY_S
    while not leases[0].held() and server.now <= end:  # the others are dead
        attempt(leases[0])
        server.now += RETRY_S
    assert leases[0].held()


def test_a_holder_that_cannot_renew_stops_writing_before_another_begins() -> None:
    server = Server()
    first, second = replicas(server)
    first.attempt()
    second.attempt()
    assert holders([first, second]) == ["replica-0"]
    server.now += RENEW_S
    assert holders([first, second]) == []
    second.attempt()
    assert holders([first, second]) == []
    server.now += DURATION_S - RENEW_S
    second.attempt()
    assert holders([first, second]) == ["replica-1"]
    assert server.item is not None
    assert server.item["spec"]["leaseTransitions"] == 1


def test_a_stopped_holder_hands_over_at_once() -> None:
    server = Server()
    first, second = replicas(server)
    first.attempt()
    second.attempt()
    first.stop()
    assert not first.held()
    second.attempt()
    assert holders([first, second]) == ["replica-1"]


def test_a_renewal_keeps_the_time_of_the_takeover() -> None:
    server = Server()
    [only] = replicas(server, 1)
    only.attempt()
    assert server.item is not None
    taken = server.item["spec"]["acquireTime"]
    server.now += RETRY_S
    only.attempt()
    assert server.item["spec"]["acquireTime"] == taken
    assert server.item["spec"]["leaseTransitions"] == 0


def test_a_conflict_is_no_takeover() -> None:
    server = Server()
    first, second = replicas(server)
    first.attempt()
    server.now += DURATION_S + 1
    second.attempt()  # sees it for the first time
    server.now += DURATION_S
    first.attempt()  # comes back
    server.now += RETRY_S
    second.attempt()
    assert holders([first, second]) == ["replica-0"]
    with pytest.raises(ApiError):
        server.replace({"metadata": {"resourceVersion": "0"}, "spec": {}})
