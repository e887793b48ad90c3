"""What the console requests: its caller, live deliveries, figures over time, and its files."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from serving.auction.eligibility import Reason
from serving.auction.separation import SeparationReason
from serving.http.console import PAGES
from tests.serving.console.browser import VARIABLE, ChromiumMissing, chromium

Start = Callable[..., Any]
Until = Callable[..., None]


def test_the_caller_has_the_role_of_its_key(start: Start) -> None:
    router = start(ads=0, anonymous_chat=False)
    falcon = router.call("GET", "/v1/caller", router.key("advertiser", "Falcon")).json()
    assert (falcon["role"], falcon["advertiser_id"], falcon["anonymous_chat"]) == ("advertiser", "Falcon", False)
    assert router.call("GET", "/v1/caller").json()["role"] == "admin"
    assert router.call("GET", "/v1/caller", "").json()["role"] is None
    assert router.call("GET", "/v1/caller", "lla_" + "x" * 43).status_code == 401


def test_every_file_is_served_and_refers_to_no_other_server(start: Start) -> None:
    router = start(ads=0)
    pages = resources.files("serving") / "pages"
    assert {name for name, _ in PAGES.values()} == {file.name for file in pages.iterdir()}
    for path, (_, kind) in PAGES.items():
        response = router.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert not re.search(r"https?://(?!www\.w3\.org)", response.text)
        for imported in re.findall(r'from "\./([^"]+)"', response.text):
            assert f"/assets/{imported}" in PAGES
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", response.text)
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", router.get("/").text)


def test_every_reason_has_a_description(start: Start) -> None:
    text = (resources.files("serving") / "pages" / "reasons.js").read_text("utf-8")
    assert set(re.findall(r"^  (\w+): \"", text, re.MULTILINE)) == {*Reason, *SeparationReason}


BOOKED = {
    "state": "active",
    "bid_micros": 450_000,
    "currency": "EUR",
    "daily_budget_micros": 2_400_000,
    "starts_at": "2020-01-01T00:00:00Z",
}


def test_deliveries_have_the_filters_and_pages_of_campaigns(start: Start) -> None:
    router = start("Try {A1}.", ads=2)
    for number, advertiser in enumerate(("Falcon", "Eagle", "Falcon")):
        body = BOOKED | {"id": f"c{number}", "name": f"Kite {number}", "advertiser_id": advertiser}
        assert router.call("POST", "/v1/campaigns", json=body).status_code == 201
    falcon = router.key("advertiser", "Falcon")
    for key, query in (
        (None, ""),
        (None, "?text=kite&limit=2"),
        (None, "?advertiser_id=Eagle"),
        (falcon, ""),
        (falcon, "?advertiser_id=Eagle"),
        (falcon, "?state=paused"),
    ):
        listed = router.call("GET", f"/v1/campaigns{query}", key).json()
        delivered = router.call("GET", f"/v1/deliveries{query}", key).json()
        assert [d["campaign_id"] for d in delivered["items"]] == [c["id"] for c in listed["items"]]
        assert [(d["version"], d["state"]) for d in delivered["items"]] == [
            (c["version"], c["state"]) for c in listed["items"]
        ]
        assert delivered["cursor"] == listed["cursor"]
    assert router.call("GET", "/v1/deliveries", router.key("publisher")).status_code == 403
    assert router.call("GET", "/v1/deliveries", "").status_code == 401
    assert router.call("GET", "/v1/deliveries?colour=red").json()["error"]["param"] == "colour"


def test_a_delivery_has_the_spend_of_the_ledger_after_the_campaigns_end(start: Start, wait_until: Until) -> None:
    router = start("Try {A1}.", ads=1)
    router.click(router.ask()["ads"][0]["click_url"])
    router.wait_until_charged()
    found = router.call("GET", "/v1/campaigns/catalogue-A1/delivery").json()
    spent = (found["spend"]["total_micros"], found["spend"]["day_micros"])
    assert (spent, found["participation"], found["planned_micros"]) == ((100_000, 100_000), 1.0, None)
    router.call("POST", "/v1/campaigns/catalogue-A1/end")
    wait_until(lambda: router.router.marketplace.index.get("catalogue-A1") is None)
    ended = router.call("GET", "/v1/campaigns/catalogue-A1/delivery").json()
    assert (ended["spend"], ended["state"], ended["participation"]) == (found["spend"], "ended", 0.0)


def test_the_series_by_role(start: Start) -> None:
    router = start("Try {A1}.", ads=2)
    router.click(router.ask()["ads"][0]["click_url"])
    router.wait_until_charged()
    whole = router.call("GET", "/v1/reports/series?count=2").json()
    assert len(whole["starts"]) == 2
    assert sum(point["revenue_micros"] for point in whole["points"]) == 100_000
    counted = [(a["model_version"], a["answers"], a["filled"], a["shown"]) for a in whole["answers"]]
    assert counted == [("0" * 16, 1, 1, 1)]
    assert (whole["ad_load"], whole["target"]) == (1.0, None)
    own = router.call("GET", "/v1/reports/series?step=day&count=2", router.key("advertiser", "Brand1")).json()
    assert [(p["impressions"], p["clicks"], p["revenue_micros"]) for p in own["points"]] == [(1, 1, 100_000)]
    assert own["answers"] is own["ad_load"] is None
    other = router.key("advertiser", "Brand2")
    for query in ("", "?advertiser_id=Brand1"):  # figures of another advertiser are never shown
        assert router.call("GET", f"/v1/reports/series{query}", other).json()["points"] == []
    assert router.call("GET", "/v1/reports/series?advertiser_id=Brand2").json()["points"] == []
    assert router.call("GET", "/v1/reports/series", router.key("publisher")).status_code == 403
    for bad, param in (("step=week", "step"), ("count=0", "count"), ("count=745", "count"), ("from=1", "from")):
        response = router.call("GET", "/v1/reports/series?" + bad)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_missing_browser_is_reported_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(ChromiumMissing, match="apt-get install chromium"):
        chromium({"PATH": str(tmp_path)})
    with pytest.raises(ChromiumMissing, match=f"{VARIABLE}=/nowhere/chromium"):
        chromium({VARIABLE: "/nowhere/chromium"})
    program = tmp_path / "chromium"
    program.touch(mode=0o755)
    assert chromium({"PATH": str(tmp_path)}) == chromium({VARIABLE: str(program)}) == program
