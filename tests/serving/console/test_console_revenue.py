"""Revenue and experience over time in a browser: charts and table agree with the ledger."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import expect

from serving.ledger.charging import Ledger
from serving.ledger.entries import Auction, AuctionEntry, ChargeEvent

Start = Callable[..., Any]
Visit = Callable[..., Any]


def traffic(router: Any, version: str, hours_ago: int, answers: int, shown: int, clicks: int) -> None:
    """Record answers with candidates A1 and A2, of which some showed A1, and clicks on it for 0.25 EUR each."""
    at = datetime.now(UTC) - timedelta(hours=hours_ago)
    name = f"{version}-{hours_ago}"
    other = AuctionEntry(campaign_id="catalogue-A2", creative_id="A2")
    both = [
        (AuctionEntry(campaign_id="catalogue-A1", creative_id="A1", shown=n < shown), other) for n in range(answers)
    ]
    batch = [Auction(id=f"{name}-{n}", occurred_at=at, model_version=version, entries=both[n]) for n in range(answers)]
    Ledger(router.router.database).book(auctions=batch)
    usual = {"campaign_id": "catalogue-A1", "creative_id": "A1", "currency": "EUR", "price_micros": 250_000}
    usual |= {"occurred_at": at, "model_version": version}
    events = [ChargeEvent(id=f"{name}-{n}:A1", auction_id=f"{name}-{n}", **usual) for n in range(clicks)]
    Ledger(router.router.database).book(events)


def tiles(page: Any) -> dict[str, str]:
    found = page.locator(".tile")
    return {one.locator("dt").inner_text(): one.locator("dd").first.inner_text() for one in found.all()}


def test_the_figures_agree_with_the_ledger(start: Start, visit: Visit) -> None:
    router = start(ads=2)
    traffic(router, "m1", 30, answers=10, shown=4, clicks=2)
    traffic(router, "m1", 3, answers=8, shown=4, clicks=1)
    traffic(router, "m2", 3, answers=2, shown=2, clicks=2)
    page = visit(router).open("revenue", router.admin)
    page.locator(".tile").first.wait_for()
    assert tiles(page) == {
        "Revenue": "€0.75",
        "Impressions": "6",
        "Clicks": "3",
        "Click-through rate": "50.0%",
        "Fill rate": "60.0%",
        "Ads per answer": "0.60",
    }
    expect(page.locator(".legend li")).to_have_text(["m1", "m2"])
    lines = page.locator(".by-version tbody tr")
    expect(lines).to_have_count(2)
    expect(lines.nth(0).locator("td")).to_have_text(["8", "€0.25", "€0.03125", "25.0%", "0.50"])
    expect(lines.nth(1).locator("td")).to_have_text(["2", "€0.50", "€0.25", "100.0%", "1.00"])
    revenue = page.locator(".chart").filter(has=page.get_by_text("Revenue", exact=True))
    bars = revenue.locator("rect")
    assert bars.count() == 2  # one hour, two model versions stacked
    heights = [float(bars.nth(i).get_attribute("height")) for i in range(2)]
    assert heights[1] == 2 * heights[0]
    svg = revenue.locator("svg")
    svg.focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(revenue.locator(".reading")).to_contain_text("€0.75 (m1 €0.25, m2 €0.50)")
    page.get_by_text("Show as a table").click()
    line = page.locator("details tbody tr").nth(3)
    expect(line.locator("td")).to_have_text(["€0.75", "6", "3", "50.0%", "10", "60.0%", "0.60"])
    page.select_option("#version", "m2")
    expect(page.locator(".tile dd").first).to_have_text("€0.50")
    page.select_option("#version", "")
    page.select_option("#period", "day-30")
    expect(page.locator(".tile dd").first).to_have_text("€1.25")


def test_an_advertiser_sees_only_its_own_spend(start: Start, visit: Visit) -> None:
    router = start(ads=2)
    traffic(router, "m1", 1, answers=5, shown=4, clicks=1)
    page = visit(router).open("revenue", router.key("advertiser", "Brand1"))
    expect(page.locator("h2:visible")).to_have_text("Spend and response")
    page.locator(".tile").first.wait_for()
    assert tiles(page) == {"Spend": "€0.25", "Impressions": "4", "Clicks": "1", "Click-through rate": "25.0%"}
    page.get_by_role("button", name="Sign out").click()
    tab_of_another = visit(router).open("revenue", router.key("advertiser", "Brand2"))
    expect(tab_of_another.locator(".empty")).to_have_text("None of your ads was shown in this period.")


def test_a_new_answer_appears_automatically(start: Start, visit: Visit) -> None:
    router = start("Try {A1}.", ads=2)
    page = visit(router).open("revenue", router.admin)
    expect(page.locator(".empty")).to_contain_text("no answer had candidates")
    router.ask()
    router.wait_until_charged()
    page.select_option("#period", "hour-168")  # polls at once
    expect(page.locator(".tile dd").nth(1)).to_have_text("1")
    expect(page.locator(".empty")).to_have_count(0)


def test_currencies_are_not_added_up(start: Start, visit: Visit) -> None:
    router = start(ads=1)
    creative = {"id": "k1", "title": "Kites", "landing_url": "https://falcon.example/"}
    body = {"id": "usd", "advertiser_id": "Falcon", "name": "USD", "bid_micros": 1, "currency": "USD"}
    assert router.call("POST", "/v1/campaigns", json=body | {"creatives": [creative]}).status_code == 201
    now = {"occurred_at": datetime.now(UTC), "model_version": "m1"}
    euro = {"campaign_id": "catalogue-A1", "creative_id": "A1", "currency": "EUR", "price_micros": 2_000_000}
    dollar = {"campaign_id": "usd", "creative_id": "k1", "currency": "USD", "price_micros": 3_000_000}
    events = [ChargeEvent(id=f"e{n}", auction_id=f"e{n}", **one, **now) for n, one in enumerate((euro, dollar))]
    Ledger(router.router.database).book(events)
    page = visit(router).open("revenue", router.admin)
    expect(page.locator(".tile dd").first).to_have_text("$3.00")
    page.select_option("#currency", "EUR")
    expect(page.locator(".tile dd").first).to_have_text("€2.00")
