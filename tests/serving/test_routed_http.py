"""A router that follows a route file under traffic: split, checks, changes, invalid files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mechanism.errors import ConfigError, PolicyError
from mechanism.weights import model_version
from serving.policies.in_process import ThreadedPolicy
from serving.policies.protocol import AsyncPolicyBackend
from serving.policies.route_file import Version
from serving.policies.versioned import RoutedPolicy, RouteLimits

QUICK = RouteLimits(trial_s=5, probe_s=2, retry_s=0.05)


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


class Fleet:
    """Policies that write their own names, and the route file with these policies."""

    def __init__(self, folder: Path, scripted: Callable[..., Any]) -> None:
        self.path = folder / "routes.json"
        self.scripted = scripted
        self.weights: dict[str, str] = {}
        self.broken: set[str] = set()
        self.unready: set[str] = set()
        self.open_breakers: set[str] = set()
        self.closed: list[str] = []

    def write(self, generation: int = 0, **weights: int) -> None:
        versions = [
            {"name": name, "weight": weight, "policy": f"models/{name}", "digest": digest(name)}
            for name, weight in weights.items()
        ]
        self.put(json.dumps({"generation": generation, "versions": versions}))

    def put(self, text: str) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(text)
        os.replace(draft, self.path)

    async def open(self, version: Version) -> AsyncPolicyBackend:
        fleet, name = self, version.name
        if name in self.broken:
            raise PolicyError("the weights cannot be read")
        ad = int(name[1]) + 1 + ("+" in name)
        policy = self.scripted(f"{name} shows {{A{ad}}}.")
        policy.digest = self.weights.get(name, digest(name))

        class Backend(ThreadedPolicy):
            @property
            def breaker_open(self) -> bool:
                return name in fleet.open_breakers

            async def ready(self) -> bool:
                return name not in fleet.unready and await super().ready()

            async def close(self) -> None:
                fleet.closed.append(name)
                await super().close()

        return Backend(policy, 16, 10.0)

    def policy(self) -> RoutedPolicy:
        return RoutedPolicy(self.path, self.open, QUICK)


@pytest.fixture
def fleet(tmp_path: Path, scripted: Callable[..., Any]) -> Fleet:
    return Fleet(tmp_path, scripted)


def answered(running: Any, **ads: Any) -> str:
    """The version that answered."""
    text: str = running.ask(ads=ads)["choices"][0]["message"]["content"]
    return text.split(maxsplit=1)[0]


def gauge(running: Any, name: str, **labels: str) -> float | None:
    value: float | None = running.router.metrics.registry.get_sample_value(f"llm_auction_{name}", labels)
    return value


def test_the_split_follows_the_file(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    fleet.write(generation=1, v1=100, v2=0)
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running:
        assert {answered(running) for _ in range(5)} == {"v1"}
        fleet.write(generation=2, v1=50, v2=50)
        wait_until(lambda: gauge(running, "routes_generation") == 2)
        assert {answered(running) for _ in range(40)} == {"v1", "v2"}  # all the same: once in 10^12
        fleet.write(generation=3, v2=100)
        wait_until(lambda: gauge(running, "routes_generation") == 3)
        assert {answered(running) for _ in range(5)} == {"v2"}
        wait_until(lambda: fleet.closed == ["v1"])
        assert gauge(running, "version_share", version="v2", model_version=digest("v2")[:16]) == 100
        assert gauge(running, "version_share", version="v1", model_version=digest("v1")[:16]) is None


def test_the_default_model_is_whatever_version_answers(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path
) -> None:
    fleet.write(v1=50, v2=50)
    with router(tmp_path, None, backend=fleet.policy()) as running:
        answers = [running.ask(model="default")["choices"][0]["message"]["content"] for _ in range(40)]
        assert {answer.split(maxsplit=1)[0] for answer in answers} == {"v1", "v2"}
        assert running.post(model="default", stream=True).text.rstrip().endswith("data: [DONE]")


def test_a_user_and_a_conversation_stay_on_their_version(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path
) -> None:
    fleet.write(v1=50, v2=50)
    with router(tmp_path, None, backend=fleet.policy()) as running:
        for key in ("u1", "u2", "u3", "u4"):
            assert len({answered(running, user_id=key, consent=True) for _ in range(4)}) == 1
            assert len({answered(running, conversation_id=key) for _ in range(4)}) == 1
        # Without consent the user id is not used here either.
        assert len({answered(running, user_id="u1") for _ in range(40)}) == 2


def test_records_reports_and_metrics_are_kept_by_version(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path
) -> None:
    fleet.write(v1=50, v2=50)
    with router(tmp_path, None, backend=fleet.policy()) as running:
        seen: dict[str, int] = {}
        for i in range(12):
            answer = running.ask(ads={"conversation_id": f"c{i}"})
            name = answer["choices"][0]["message"]["content"][:2]
            record = running.call("GET", f"/v1/auctions/{answer['auction']['auction_id']}").json()
            assert record["model_digest"] == digest(name)
            if name not in seen:
                assert running.click(answer["ads"][0]["click_url"]).status_code == 302
            seen[name] = seen.get(name, 0) + 1
        running.wait_until_charged()
        assert set(seen) == {"v1", "v2"}
        rows = running.call("GET", "/v1/reports?group_by=model_version").json()["lines"]
        for name, count in seen.items():
            version, bid = model_version(digest(name)), 100_000 * (int(name[1:]) + 1)
            assert [row["clicks"] for row in rows if row["model_version"] == version] == [1]
            assert gauge(running, "answers_total", outcome="answered", model_version=version) == count
            assert gauge(running, "answer_seconds_count", model_version=version) == count
            assert gauge(running, "clicks_total", validity="valid", model_version=version) == 1
            charged = {"currency": "EUR", "pricing": "click", "model_version": version}
            assert gauge(running, "revenue_micros_total", **charged) == bid
            assert gauge(running, "clicked_micros_total", currency="EUR", model_version=version) == bid


def test_the_same_weights_on_two_kinds_of_servers_are_counted_apart(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path
) -> None:
    fleet.weights = {"v1+0a1b": digest("v1")}
    old = {"name": "v1", "weight": 50, "policy": "models/v1", "digest": digest("v1")}
    new = {**old, "name": "v1+0a1b", "revision": "0a1b"}
    fleet.put(json.dumps({"versions": [old, new]}))
    version, counted = digest("v1")[:16], Counter[tuple[str, str]]()
    with router(tmp_path, None, backend=fleet.policy()) as running:
        clicked = dict[str, int]()
        for i in range(12):
            answer = running.ask(ads={"conversation_id": f"c{i}"})
            name = answer["choices"][0]["message"]["content"].split()[0]
            if name not in clicked:
                assert running.click(answer["ads"][0]["click_url"]).status_code == 302
            clicked[name] = clicked.get(name, 0) + 1
        running.wait_until_charged()
        report = json.loads(running.router.metrics.rollout_report())
        for cohort in report["cohorts"]:
            counted[cohort["version"], "answers"] += cohort["answers"]
            counted[cohort["version"], "clicks"] += cohort["clicks"]
        assert counted == {
            (version, "answers"): clicked["v1"],
            (version, "clicks"): 1,
            (f"{version}+0a1b", "answers"): clicked["v1+0a1b"],
            (f"{version}+0a1b", "clicks"): 1,
        }
        assert {(one["name"], one["model_version"]) for one in report["versions"]} == {
            ("v1", version),
            ("v1+0a1b", f"{version}+0a1b"),
        }
        # Reports and metrics are about the weights alone.
        assert gauge(running, "answers_total", outcome="answered", model_version=version) == 12
        assert gauge(running, "clicks_total", validity="valid", model_version=version) == 2


@pytest.mark.parametrize("fault", ["broken", "other weights", "unready"])
def test_a_version_that_fails_its_check_gets_no_traffic_until_it_passes(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None], fault: str
) -> None:
    if fault == "broken":
        fleet.broken.add("v2")
    elif fault == "unready":
        fleet.unready.add("v2")
    else:
        fleet.weights["v2"] = digest("another model")
    fleet.write(v1=1, v2=99)
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running:
        labels = {"version": "v2", "model_version": digest("v2")[:16]}
        assert {answered(running) for _ in range(10)} == {"v1"}
        assert (gauge(running, "version_ready", **labels), gauge(running, "version_share", **labels)) == (0, 0)
        assert gauge(running, "version_share", version="v1", model_version=digest("v1")[:16]) == 100
        fleet.broken.clear()
        fleet.unready.clear()
        fleet.weights.clear()
        wait_until(lambda: gauge(running, "version_share", **labels) == 99)
        assert "v2" in {answered(running) for _ in range(20)}


def test_a_version_that_is_no_longer_ready_loses_its_traffic_and_gets_it_back(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    fleet.write(v1=50, v2=50)
    labels = {"version": "v1", "model_version": digest("v1")[:16]}
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running:
        fleet.unready.add("v1")
        wait_until(lambda: gauge(running, "version_share", **labels) == 0)
        assert {answered(running) for _ in range(10)} == {"v2"}
        fleet.unready.clear()
        wait_until(lambda: gauge(running, "version_share", **labels) == 50)


def test_the_previous_version_serves_while_the_new_one_cannot_answer(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    fleet.write(generation=1, v1=100)
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running:
        fleet.broken.add("v2")
        fleet.write(generation=2, v2=100)
        wait_until(lambda: gauge(running, "routes_generation") == 2)
        assert answered(running) == "v1"
        assert running.get("/readyz").status_code == 200
        fleet.broken.clear()
        wait_until(lambda: answered(running) == "v2")
        wait_until(lambda: "v1" in fleet.closed)


def test_an_open_breaker_of_a_version_with_traffic_shows_in_the_metrics(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    fleet.write(v1=50, v2=50, v3=0)
    fleet.open_breakers.add("v3")
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running:
        wait_until(lambda: gauge(running, "policy_ready") == 1)
        assert gauge(running, "policy_breaker_open") == 0
        fleet.open_breakers.add("v2")
        wait_until(lambda: gauge(running, "policy_breaker_open") == 1)
        fleet.open_breakers.clear()
        wait_until(lambda: gauge(running, "policy_breaker_open") == 0)


@pytest.mark.parametrize("bad", ["{", '{"versions": []}', None])
def test_an_invalid_file_changes_nothing_and_is_counted(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None], bad: str | None
) -> None:
    fleet.write(generation=1, v1=100)
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running:
        if bad is None:
            fleet.path.unlink()
        else:
            fleet.put(bad)
        wait_until(lambda: gauge(running, "routes_refused") == 1)
        assert answered(running) == "v1"
        assert gauge(running, "route_files_refused_total") == 1  # once, however often it is read
        fleet.write(generation=2, v1=100)
        wait_until(lambda: gauge(running, "routes_generation") == 2)
        assert gauge(running, "routes_refused") == 0


def test_a_router_without_any_version_is_not_ready_until_one_passes(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    fleet.broken.add("v1")
    fleet.write(v1=100)
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running:
        assert running.get("/readyz").status_code == 503
        assert running.post().status_code == 503
        fleet.broken.clear()
        wait_until(lambda: running.get("/readyz").status_code == 200)
        assert answered(running) == "v1"


def test_a_change_of_the_file_breaks_no_stream(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    fleet.write(generation=1, v1=100)
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running:
        stream = running.client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "Good shoes?"}], stream=True
        )
        with stream:
            chunks = iter(stream)
            next(chunks)
            fleet.write(generation=2, v2=100)
            wait_until(lambda: answered(running) == "v2")
            rest = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert "v1 shows" in rest


def test_a_version_stays_loaded_for_an_answer_that_has_not_called_it_yet(
    fleet: Fleet, router: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    fleet.write(generation=1, v1=100)
    with router(tmp_path, None, backend=fleet.policy(), routes_s=0.02) as running, ThreadPoolExecutor() as threads:
        market, proceed, searching = running.router.marketplace, threading.Event(), threading.Event()

        async def slow(*_: Any) -> None:
            searching.set()
            while not proceed.is_set():
                await asyncio.sleep(0.01)

        market.vector = slow
        answer = threads.submit(answered, running)
        assert searching.wait(10)
        fleet.write(generation=2, v2=100)
        wait_until(lambda: gauge(running, "version_share", version="v2", model_version=digest("v2")[:16]) == 100)
        time.sleep(0.2)  # ten refreshes
        assert fleet.closed == []
        proceed.set()
        assert answer.result(10) == "v1"
        wait_until(lambda: fleet.closed == ["v1"])


def test_an_invalid_file_at_the_start_is_an_error_that_names_the_field(tmp_path: Path, fleet: Fleet) -> None:
    fleet.put('{"versions": [{"name": "v1", "weight": 50, "policy": "x", "digest": ""}]}')
    with pytest.raises(ConfigError, match="digest"):
        fleet.policy()
