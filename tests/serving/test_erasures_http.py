"""`/v1/erasures`: administrators erase readers from the lake that the router knows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.streaming.event_samples import interaction
from serving.campaigns.types import FrequencyCap
from serving.erasure import pseudonyms
from streaming.lake import TrainingSet
from tests.serving.database.samples import campaign
from tests.streaming.lake_tables import append, judgement

SECRET, FORMER = b"signing secret 01234567890123456", b"former secret 012345678901234567"


@pytest.fixture
def lake(tmp_path: Path) -> str:
    """A lake with two answers to alice, one of them under a former secret, one to bob, and one to nobody known."""
    (new, old), (bob,) = pseudonyms("alice", (SECRET, FORMER)), pseudonyms("bob", (SECRET,))
    now = datetime.now(UTC)
    events = [interaction(n, now - timedelta(days=n), user=user) for n, user in enumerate((new, old, bob, ""))]
    url = str(tmp_path / "lake")
    append(url, *events, *map(judgement, events))
    return url


@pytest.fixture
def running(router: Any, scripted: Callable[..., Any], tmp_path: Path, lake: str) -> Any:
    with router(tmp_path, scripted("Hello."), lake=lake, secrets=(SECRET, FORMER), retention_days=7.0) as found:
        yield found


def test_an_administrator_erases_by_user_by_answer_and_by_age_and_reads_the_audit(running: Any, lake: str) -> None:
    found = running.call("POST", "/v1/erasures", json={"user_id": "alice"})
    assert (found.status_code, found.json()["answers"]) == (200, 2), "under every secret"
    until = datetime.fromisoformat(found.json()["log_until"])
    assert timedelta(days=7) < until - datetime.now(UTC) < timedelta(days=8)
    assert found.json()["files_until"] < found.json()["log_until"] < found.json()["dead_letters_until"]
    assert TrainingSet(lake).count() == 2
    unknown_user = next(row for row in TrainingSet(lake).rows() if row.interaction.reader.user_id == "")
    found = running.call("POST", "/v1/erasures", json={"auction_id": unknown_user.auction_id})
    assert (found.json()["answers"], TrainingSet(lake).count()) == (1, 1)
    found = running.call("POST", "/v1/erasures", json={"older_than_days": 1.5})
    assert (found.json()["answers"], found.json()["log_until"], TrainingSet(lake).count()) == (1, None, 0)
    assert TrainingSet(lake).totals().answers == 4, "the auctions remain"
    audit = running.call("GET", "/v1/erasures").json()["items"]
    assert [(line["by"], line["answers"]) for line in audit] == [("user", 1), ("user", 1), ("auction", 1), ("age", 1)]
    assert {line["who"] for line in audit} == {f"key {running.call('GET', '/v1/keys').json()['items'][0]['id']}"}
    assert "alice" not in str(audit)


def test_an_erased_reader_is_forgotten_by_frequency_caps(running: Any) -> None:
    caps, own = running.router.marketplace.frequency, campaign(1, campaign_caps=(FrequencyCap(impressions=1, hours=1),))
    now = datetime.now(UTC)
    for user in ("alice", "bob"):
        caps.reserve(user, f"auction of {user}", [(own, "c1-1")], now)
    assert running.call("POST", "/v1/erasures", json={"user_id": "alice"}).status_code == 200
    reached = [caps.reached(user, True, now, {"c1": own}.get).campaigns for user in ("alice", "bob")]
    assert reached == [frozenset(), {"c1"}]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "erasure"),
        ({"user_id": "alice", "older_than_days": 3}, "erasure"),
        ({"user_id": ""}, "user_id"),
        ({"older_than_days": 0}, "older_than_days"),
        ({"older_than_days": 1e9}, "older_than_days"),
        ({"auction_id": "1' OR '1'='1"}, "auction"),
        ({"user": "alice"}, "user"),
    ],
)
def test_what_names_no_reader_is_refused(running: Any, lake: str, body: dict[str, Any], field: str) -> None:
    found = running.call("POST", "/v1/erasures", json=body)
    assert (found.status_code, found.json()["error"]["param"]) == (400, field)
    assert TrainingSet(lake).count() == 4


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_administrators_erase(running: Any, lake: str, method: str) -> None:
    body = {"json": {"user_id": "alice"}} if method == "POST" else {}
    assert running.call(method, "/v1/erasures", "", **body).status_code == 401
    for role in ("publisher", "advertiser"):
        key = running.key(role, "Falcon" if role == "advertiser" else "")
        assert running.call(method, "/v1/erasures", key, **body).status_code == 403
    assert TrainingSet(lake).count() == 4


def test_a_router_without_a_lake_names_the_remedy(start: Callable[..., Any], tmp_path: Path) -> None:
    found = start("Hello.").call("POST", "/v1/erasures", json={"user_id": "alice"})
    assert (found.status_code, found.json()["error"]["code"]) == (404, "no_lake")
    assert "--lake" in found.json()["error"]["message"]


def test_an_empty_lake_is_refused_and_an_unreachable_one_is_not_done(start: Callable[..., Any], tmp_path: Path) -> None:
    router = start("Hello.", lake=str(tmp_path / "lake"))
    found = router.call("POST", "/v1/erasures", json={"user_id": "alice"})
    assert (found.status_code, found.json()["error"]["param"]) == (400, "lake")
    append(str(tmp_path / "lake"), interaction(1))
    log = tmp_path / "lake" / "interactions" / "_delta_log"
    next(log.glob("*.json")).write_text("{")
    found = router.call("POST", "/v1/erasures", json={"user_id": "alice"})
    assert (found.status_code, found.json()["error"]["code"]) == (503, "lake_unavailable")
