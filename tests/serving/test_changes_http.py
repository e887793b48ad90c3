"""Histories over HTTP: an advertiser reads who of its own changed what; names of the market's staff stay with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from typer.testing import CliRunner

from cli.main import app

Start = Callable[..., Any]
CAMPAIGN = {
    "id": "kites",
    "name": "Spring",
    "bid_micros": 450_000,
    "currency": "EUR",
    "creatives": [{"id": "kite-1", "title": "Falcon Kites", "landing_url": "https://falcon.example/kites"}],
}


def test_a_history_names_who_changed_what(start: Start) -> None:
    router = start("Hello.")
    falcon, other = router.key("advertiser", "Falcon"), router.key("advertiser", "Other")
    version = router.call("POST", "/v1/campaigns", falcon, json=CAMPAIGN).json()["version"]
    changed = {"version": version, "bid_micros": 500_000}
    assert router.call("PATCH", "/v1/campaigns/kites", falcon, json=changed).status_code == 200
    assert router.call("POST", "/v1/creatives/kite-1/review", json={"review": "approved"}).status_code == 200
    assert router.call("POST", "/v1/campaigns/kites/resume", falcon).status_code == 200
    own = router.call("GET", "/v1/campaigns/kites/changes", falcon).json()["items"]
    assert [(one["by"]["role"], one["by"]["name"]) for one in own] == [
        ("advertiser", "test"),
        ("admin", ""),
        ("advertiser", "test"),
        ("advertiser", "test"),
    ]
    assert own[0]["fields"] == [{"field": "state", "old": "paused", "new": "active"}]
    assert own[2]["fields"] == [{"field": "bid_micros", "old": 450_000, "new": 500_000}]
    assert own[1]["by"]["key_id"] == ""
    seen = router.call("GET", "/v1/campaigns/kites/changes").json()["items"]
    assert seen[1]["by"]["key_id"].startswith("key_")
    assert router.call("GET", "/v1/campaigns/kites/changes", other).status_code == 404
    assert router.call("GET", "/v1/campaigns/kites/changes?limit=1", falcon).json()["cursor"]


def test_an_advertiser_reads_its_own_history_alone(start: Start) -> None:
    router = start("Hello.")
    falcon = router.key("advertiser", "Falcon")
    for name in ("Falcon", "Other"):
        terms = {"advertiser_id": name, "currency": "EUR", "credit_limit_micros": 0}
        router.call("PUT", "/v1/accounts", json=terms)
    (own,) = router.call("GET", "/v1/changes?subject=account", falcon).json()["items"]
    assert (own["advertiser_id"], own["subject_id"]) == ("Falcon", "EUR")
    assert len(router.call("GET", "/v1/changes?subject=account&subject_id=EUR").json()["items"]) == 2
    assert router.call("GET", "/v1/changes?advertiser_id=Other", falcon).status_code == 403
    assert router.call("GET", "/v1/changes", router.key("publisher")).status_code == 403
    assert router.call("GET", "/v1/changes?subject=x").json()["error"]["param"] == "subject"


def test_the_command_prints_a_history(start: Start) -> None:
    router = start("Hello.")
    falcon = router.key("advertiser", "Falcon")
    router.call("POST", "/v1/campaigns", falcon, json=CAMPAIGN)
    router.call("POST", "/v1/campaigns/kites/resume", falcon)

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["campaigns", "history", *more, "--url", router.url, "--key", falcon])

    lines = run("kites").output.splitlines()
    assert re.fullmatch(r"\S+ by advertiser key_\S+ test", lines[0])
    assert lines[1] == '  state: "paused" -> "active"'
    assert [json.loads(line)["subject"] for line in run("kites", "--json").output.splitlines()] == ["campaign"] * 2
    assert run("x").exit_code == 2
