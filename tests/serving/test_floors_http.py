"""Floors of placements: lower bids are excluded there, with a reason, and the auction's record keeps the floor."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app

Start = Callable[..., Any]


@pytest.fixture
def market(start: Start) -> Any:
    """A router with the publishers news and blog; `keys` are those of their sites. A1 bids 0.10 EUR, A6 0.60."""
    router = start("Try {A6}.")
    router.keys = {}
    for name in ("news", "blog"):
        router.call("POST", "/v1/publishers", json={"id": name, "share_thousandths": 700})
        key = {"role": "publisher", "label": name, "publisher_id": name}
        router.keys[name] = router.call("POST", "/v1/keys", json=key).json()["secret"]
    return router


def floors(router: Any, placement: str, key: str | None = None, **given: Any) -> Any:
    return router.call("PATCH", f"/v1/placements/{placement}", key, json={"floors": given})


def auction(router: Any, key: str, **ads: Any) -> dict[str, Any]:
    """Ask a question and return the record of its auction, as an administrator sees it."""
    body = {"model": "default", "messages": [{"role": "user", "content": "Good running shoes?"}], "ads": ads}
    answer = router.call("POST", "/v1/chat/completions", key, json=body).json()
    record: dict[str, Any] = router.call("GET", "/v1/auctions/" + answer["auction"]["auction_id"]).json()
    return record


def test_bids_below_the_floor_of_a_placement_are_excluded_there(market: Any) -> None:
    stored = floors(market, "news", market.keys["news"], EUR=400_000)
    assert (stored.status_code, stored.json()["floors"]) == (200, {"EUR": 400_000})
    record = auction(market, market.keys["news"], placement="News")
    assert {c["ad_id"] for c in record["candidates"]} == {"A4", "A5", "A6"}
    assert (record["floor_micros"], record["excluded"]) == (400_000, {"bid_below_floor": 3})
    elsewhere = auction(market, market.keys["blog"])
    assert (elsewhere["floor_micros"], elsewhere["excluded"], len(elsewhere["candidates"])) == (0, {}, 6)


def test_the_higher_floor_of_placement_and_request_counts(market: Any) -> None:
    floors(market, "news", EUR=400_000)
    found = [
        auction(market, market.keys["news"], floor_micros=own)["floor_micros"] for own in (0, 399_999, 400_000, 550_000)
    ]
    assert found == [400_000, 400_000, 400_000, 550_000]


def test_a_placement_with_floors_takes_no_bids_of_other_currencies(market: Any) -> None:
    floors(market, "news", USD=100_000)
    record = auction(market, market.keys["news"])
    assert (record["candidates"], record["excluded"]) == ([], {"floor_currency": 6})
    assert record["currency"] == "EUR"
    floors(market, "news", USD=100_000, EUR=600_000)
    assert [c["ad_id"] for c in auction(market, market.keys["news"])["candidates"]] == ["A6"]
    assert floors(market, "news").json()["floors"] == {}
    assert len(auction(market, market.keys["news"])["candidates"]) == 6


def test_a_publisher_sets_floors_of_its_own_placements_alone(market: Any) -> None:
    assert floors(market, "news", market.keys["blog"], EUR=1).status_code == 404
    assert floors(market, "unknown", EUR=1).status_code == 404
    assert floors(market, "news", market.key("advertiser", "Brand1"), EUR=1).status_code == 403
    assert floors(market, "NEWS", EUR=7).json()["floors"] == {"EUR": 7}
    (own,) = market.call("GET", "/v1/placements", market.keys["news"]).json()["items"]
    assert own["floors"] == {"EUR": 7}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"EUR": 0}, "floors.EUR"),
        ({"EUR": 1_000_001}, "floors.EUR"),  # beyond the highest bid: no ad could ever be shown
        ({"XXX": 1}, "floors"),
        ({"EUR": 0.5}, "floors.EUR"),
    ],
)
def test_a_floor_that_no_bid_can_meet_is_refused(market: Any, given: dict[str, Any], field: str) -> None:
    refused = floors(market, "news", **given)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith(field)
    assert market.call("GET", "/v1/placements?publisher_id=news").json()["items"][0]["floors"] == {}


def test_placements_from_the_command_line(market: Any) -> None:
    def run(*arguments: str, key: str = market.keys["news"]) -> tuple[int, str]:
        environment = {"LLM_AUCTION_URL": market.url, "LLM_AUCTION_KEY": key}
        done = CliRunner().invoke(app, ["placements", *arguments], env=environment)
        return done.exit_code, done.stdout if done.exit_code == 0 else done.stderr

    assert run("register", "news.app") == (0, "news.app (publisher news): no floor\n")
    assert run("floors", "news.app", "EUR=0.25", "USD=.3")[1].endswith(": 250000 micros EUR, 300000 micros USD\n")
    assert run("list")[1].splitlines()[0] == "news (publisher news): no floor"
    assert run("floors", "news.app", "--none") == (0, "news.app (publisher news): no floor\n")
    code, output = run("floors", "blog", "EUR=0.25")
    assert (code, "no placement has this id" in output) == (2, True)
    assert run("floors", "news.app")[0] == 2
    assert run("list", key="llma-wrong")[0] == 2
    assert json.loads(market.call("GET", "/v1/placements").text)["items"][2]["id"] == "news.app"


def test_a_key_is_sent_to_no_other_address() -> None:
    asked: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(308 if self.path == "/v1/placements" else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for command in (["list"], ["register", "news.app"]):
            refused = CliRunner().invoke(app, ["placements", *command, "--url", url, "--key", "k"])
            assert (refused.exit_code, "redirects to /elsewhere" in refused.stderr) == (2, True)
        server.shutdown()
    assert asked == ["/v1/placements"] * 2


def test_a_router_that_is_away_is_worth_a_retry() -> None:
    away = ["placements", "list", "--url", "http://127.0.0.1:9", "--key", "k"]
    assert CliRunner().invoke(app, away).exit_code == 1
    assert CliRunner().invoke(app, ["placements", "list", "--url", "file:///etc", "--key", "k"]).exit_code == 2
