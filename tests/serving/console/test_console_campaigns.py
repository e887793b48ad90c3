"""Campaigns in a browser: live spend and pacing, pausing and reviewing, and the view of each role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

from serving.campaigns.catalogue import Catalogue

Start = Callable[..., Any]
Visit = Callable[..., Any]
BOOKED = {"state": "active", "category": "kites", "bid_micros": 450_000, "currency": "EUR", "pacing": "asap"}


def book(router: Any, number: int = 1, advertiser: str = "Falcon", **changes: Any) -> dict[str, Any]:
    creative = {"id": f"kite-{number}", "title": f"Kite {number}", "landing_url": "https://falcon.example/"}
    body = BOOKED | {"id": f"c{number}", "name": f"Spring {number}", "advertiser_id": advertiser} | changes
    response = router.call("POST", "/v1/campaigns", json=body | {"creatives": [creative]})
    assert response.status_code == 201, response.text
    campaign: dict[str, Any] = response.json()
    return campaign


def row(page: Any, name: str) -> Any:
    return page.locator(".cards tr", has=page.get_by_role("rowheader", name=name))


def test_spend_is_live_and_a_paused_campaign_is_excluded(start: Start, visit: Visit, demo: Catalogue) -> None:
    router = start("Try {A2}.", catalogue=demo)
    changes = {"version": 2, "daily_budget_micros": 1_000_000, "pacing": "even"}
    assert router.call("PATCH", "/v1/campaigns/catalogue-A2", json=changes).status_code == 200
    reader, tab = visit(router), visit(router)
    page = tab.open("campaigns", router.admin)
    own = row(page, "Brand2 Coffee Beans")
    today, total = own.locator("td[data-label=Today]"), own.locator("td[data-label=Total]")
    expect(today).to_contain_text("€0.00of €1.00")
    expect(own.locator(".pacing")).to_contain_text("planned by now; takes part in")
    router.router.marketplace.index.set_participation("catalogue-A2", 1.0)
    reader.open()
    reader.ask("Coffee?")
    reader.page.wait_for_timeout(1_100)
    with reader.page.expect_popup():
        reader.page.get_by_role("link", name="Brand2 Coffee Beans").click()
    expect(today).to_contain_text("€0.20of €1.00")
    expect(total).to_contain_text("€0.20no limit")
    own.get_by_role("button", name="Pause").click()
    expect(own.locator(".badge")).to_have_text("paused")
    expect(own.locator(".pacing")).to_contain_text("does not take part")
    excluded = reader.page.locator(".reason", has_text="The advertiser has paused the campaign")
    for _ in range(50):  # until the router has applied the change
        reader.ask("Coffee?")
        if excluded.count():
            break
    excluded.locator("summary").click()
    expect(excluded.locator(".ids")).to_have_text("A2")
    expect(reader.page.locator(".assistant").last.locator(".ad")).to_have_count(0)
    own.get_by_role("button", name="Resume").click()
    expect(own.locator(".badge")).to_have_text("active")


def test_a_house_ad_is_marked(start: Start, visit: Visit) -> None:
    router = start(ads=0)
    book(router, priority="house")
    book(router, 2)
    page = visit(router).open("campaigns", router.admin)
    expect(row(page, "Spring 1")).to_contain_text("house ad · Falcon")
    expect(row(page, "Spring 1").locator("td[data-label=Bid]")).to_contain_text("is not charged")
    expect(row(page, "Spring 2").locator("td[data-label=Bid]")).to_contain_text("per click")


def test_an_administrator_cannot_review_a_version_that_was_not_displayed(start: Start, visit: Visit) -> None:
    router = start(ads=0)
    booked = book(router)
    tab = visit(router, errors=1)  # the browser logs the 409
    page = tab.open("campaigns", router.admin)
    own = row(page, "Spring 1")
    expect(own).to_contain_text("1 to review")
    own.get_by_role("button", name="1 creative").click()
    # Changed before the console polls again:
    reviewed: list[str] = []
    page.on("request", lambda request: reviewed.append(request.url) if request.url.endswith("/review") else None)
    page.route("**/v1/deliveries?*", lambda route: route.continue_() if reviewed else route.abort())
    changed = {"version": 1, "creatives": [booked["creatives"][0] | {"title": "Kite B"}]}
    changed["creatives"] = [
        {n: v for n, v in changed["creatives"][0].items() if not n.startswith(("review", "findings"))}
    ]
    assert router.call("PATCH", "/v1/campaigns/c1", json=changed).status_code == 200
    page.get_by_role("button", name="Approve Kite 1").click()
    expect(page.locator("#campaigns-message")).to_contain_text("This campaign was changed in the meantime")
    page.get_by_role("button", name="Approve Kite B").click()
    expect(page.locator(".creatives .badge")).to_have_text("approved")
    expect(own).not_to_contain_text("to review")
    assert router.call("GET", "/v1/campaigns/c1").json()["creatives"][0]["review"] == "approved"
    tab.errors[:] = [error for error in tab.errors if "ERR_FAILED" not in error]


def test_an_advertiser_sees_and_pauses_only_its_own_campaigns(start: Start, visit: Visit) -> None:
    router = start(ads=3)
    book(router, 1, "Falcon")
    book(router, 2, "Eagle")
    page = visit(router).open("campaigns", router.key("advertiser", "Falcon"))
    expect(page.locator("#who")).to_have_text("Advertiser Falcon")
    expect(page.locator("nav [data-view]:visible")).to_have_text(["Campaigns", "Spend"])
    expect(page.locator(".cards .name")).to_have_text(["Spring 1"])
    expect(page.locator("#filter-advertiser")).to_be_hidden()
    page.get_by_role("button", name="1 creative").click()
    expect(page.locator(".creatives")).to_contain_text("Kite 1")
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".cards .badge").first).to_have_text("paused")
    assert router.call("GET", "/v1/campaigns/c1").json()["state"] == "paused"


def test_a_viewer_sees_its_advertiser_s_campaigns_and_changes_none(start: Start, visit: Visit) -> None:
    router = start(ads=3)
    book(router, 1, "Falcon")
    book(router, 2, "Eagle")
    page = visit(router).open("campaigns", router.key("viewer", "Falcon"))
    expect(page.locator("#who")).to_have_text("Viewer of Falcon")
    expect(page.locator("nav [data-view]:visible")).to_have_text(["Campaigns", "Spend"])
    expect(page.locator(".cards .name")).to_have_text(["Spring 1"])
    expect(page.get_by_role("button", name="1 creative")).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)


def test_an_account_that_is_used_up_is_shown(start: Start, visit: Visit) -> None:
    router = start(ads=0)
    book(router, 1, "Falcon")
    terms = {"advertiser_id": "Falcon", "currency": "EUR"}
    assert router.call("PUT", "/v1/accounts", json=terms | {"credit_limit_micros": 440_000}).status_code == 200
    own = row(visit(router).open("campaigns", router.key("advertiser", "Falcon")), "Spring 1")
    expect(own.locator(".pacing")).to_contain_text("Account used up€0.44 left do not cover the bid")
    payment = terms | {"micros": 10_000, "reference": "bank 1"}
    assert router.call("POST", "/v1/payments", json=payment).status_code == 201
    expect(own.locator(".pacing")).to_contain_text("As soon as possible")


def test_a_house_ad_needs_nothing_in_its_account(start: Start, visit: Visit) -> None:
    router = start(ads=0)
    book(router, 1, "Falcon", priority="house")
    terms = {"advertiser_id": "Falcon", "currency": "EUR", "credit_limit_micros": 0}
    assert router.call("PUT", "/v1/accounts", json=terms).json()["available_micros"] == 0
    own = row(visit(router).open("campaigns", router.key("advertiser", "Falcon")), "Spring 1")
    expect(own.locator(".pacing")).to_contain_text("As soon as possible")


def test_the_list_is_filtered_and_paged(start: Start, visit: Visit) -> None:
    router = start(ads=0)
    for number in range(27):
        book(router, number, state="paused" if number % 9 == 0 else "active")
    page = visit(router).open("campaigns", router.admin)
    names = page.locator(".cards .name")
    expect(names).to_have_count(25)
    page.get_by_role("button", name="Older").click()
    expect(names).to_have_text(["Spring 1", "Spring 0"])
    page.get_by_role("button", name="Newer").click()
    expect(names).to_have_count(25)
    page.select_option("#filter-state", "paused")
    expect(names).to_have_text(["Spring 18", "Spring 9", "Spring 0"])
    page.fill("#filter-text", "ring 9")
    expect(names).to_have_text(["Spring 9"])
    page.fill("#filter-advertiser", "Eagle")
    expect(page.locator(".empty")).to_have_text("No campaign matches these filters.")


def test_an_empty_list_and_an_unreachable_router_are_reported(start: Start, visit: Visit) -> None:
    router = start(ads=0)
    tab = visit(router)
    page = tab.open("campaigns", router.admin)
    expect(page.locator(".empty")).to_contain_text("There are no campaigns yet.")
    book(router)
    tab.refresh()
    expect(page.locator(".cards .name")).to_have_text(["Spring 1"])
    page.route("**/v1/**", lambda route: route.abort())
    tab.refresh()
    expect(page.locator("#campaigns-message")).to_contain_text("the router cannot be reached. Trying again.")
    expect(page.locator("#campaigns-fresh")).to_have_text("Not live: figures are out of date")
    expect(page.locator(".cards .name")).to_have_text(["Spring 1"])
    page.unroute("**/v1/**")
    tab.refresh()
    expect(page.locator("#campaigns-fresh")).to_contain_text("Live ·")
    expect(page.locator("#campaigns-message")).to_have_text("")
    tab.errors.clear()  # the browser logs the failed requests
