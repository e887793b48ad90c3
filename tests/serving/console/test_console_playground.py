"""The playground in a browser: streamed answers, labelled links that charge once, the auction behind each answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import expect

from mechanism.markers import render_marker
from mechanism.types import Context
from serving.campaigns.catalogue import Catalogue
from serving.campaigns.types import Campaign, CampaignState, Creative, Pacing, ReviewState

Start = Callable[..., Any]
Visit = Callable[..., Any]
Until = Callable[..., None]


def test_an_answer_streams_and_its_auction_is_shown(start: Start, visit: Visit, demo: Catalogue) -> None:
    more = threading.Event()

    def script(context: Context) -> Iterator[str]:
        yield "Deep lugs help. "
        assert more.wait(20)
        yield f"Try {render_marker(context.candidates[0].ad)} for grip."

    router = start(script=script, catalogue=demo)
    router.call("POST", "/v1/campaigns/catalogue-A3/pause")
    tab = visit(router)
    page = tab.open(key=router.admin)  # bids are private: other callers see none
    page.fill("#question", "Good running shoes?")
    page.keyboard.press("Enter")
    answer = page.locator(".assistant .body")
    expect(answer).to_have_text("Deep lugs help. ")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    more.set()
    expect(answer).to_have_text("Deep lugs help. Try Brand1 Running Shoes Sponsored for grip.")
    panel = page.locator("#auction")
    shown = panel.locator("tbody tr").first
    expect(shown.locator("th")).to_contain_text("Brand1 Running Shoes shown")
    expect(shown.locator("td").first).to_have_text("€0.10")
    expect(shown.locator("td").last).to_have_text("€0.10per click")
    assert panel.locator("tbody tr").count() == 2
    expect(panel.locator("dt", has_text="Weights").locator("xpath=..")).to_contain_text("sha256 0000")
    expect(panel.locator("time")).to_contain_text("UTC")
    excluded = panel.locator(".reason", has_text="The advertiser has paused the campaign")
    excluded.locator("summary").click()
    expect(excluded.locator(".ids")).to_have_text("A3")


def test_stopping_keeps_the_text_written_so_far(start: Start, visit: Visit, wait_until: Until) -> None:
    ended = threading.Event()

    def script(context: Context) -> Iterator[str]:
        try:
            yield "One "
            for _ in range(400):
                ended.wait(0.05)
                yield "more "
        finally:
            ended.set()

    router = start(script=script)
    page = visit(router).open()
    page.fill("#question", "Anything?")
    page.keyboard.press("Enter")
    expect(page.locator(".assistant .body")).to_contain_text("One more")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".assistant .body")).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Ask")).to_be_visible()
    wait_until(ended.is_set)


def test_a_followed_link_is_charged_once_and_the_total_grows(start: Start, visit: Visit, demo: Catalogue) -> None:
    router = start("Try {A2}.", catalogue=demo)
    tab = visit(router)
    page = tab.open(key=router.admin)
    expect(page.locator("#revenue")).to_have_text("none yet")
    tab.ask("Coffee?")
    page.wait_for_timeout(1_100)  # an earlier click would be invalid
    for _ in range(2):
        with page.expect_popup() as opened:
            page.get_by_role("link", name="Brand2 Coffee Beans").click()
        expect(opened.value.locator("h1")).to_have_text("Brand2 Coffee Beans")
        assert opened.value.evaluate("window.opener") is None
    expect(page.locator("#revenue")).to_have_text("€0.20")
    expect(page.locator("#clicks")).to_have_text("1")
    router.wait_until_charged()
    assert router.revenue() == {"EUR": 200_000}


def test_a_reader_without_a_key_chats_and_sees_no_revenue(start: Start, visit: Visit) -> None:
    router = start("Try {A2}.")
    page = visit(router).open()
    expect(page.locator("#totals")).to_be_hidden()
    assert router.call("GET", "/v1/summary", "").status_code == 401


HOSTILE = "<img src=x onerror=document.title='owned'>"


def test_markup_in_titles_answers_names_and_addresses_stays_text(
    start: Start, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The screening, which would drop this creative from every auction, is taken away: the pages defend themselves.
    monkeypatch.setattr("serving.answering.answer.is_planted", lambda creative: False)
    now = datetime.now(UTC)
    router = start(f"{HOSTILE}<script>document.title='owned'</script> [a](javascript:alert(1)) {{x1}}", ads=0)
    # The API would reject this campaign: it is written to the database directly.
    ad = Creative(id="x1", title=HOSTILE, text=f"<b>{HOSTILE}</b>", landing_url="javascript:document.title='owned'")
    campaign = Campaign(
        id="x",
        advertiser_id=HOSTILE,
        name=HOSTILE,
        category="<i>things</i>",
        state=CampaignState.ACTIVE,
        creatives=(ad,),
        bid_micros=100_000,
        currency="EUR",
        pacing=Pacing.ASAP,
        starts_at=now,
        created_at=now,
        updated_at=now,
    )
    router.router.campaigns.create(campaign, now)
    router.router.campaigns.review("x1", ReviewState.APPROVED, now)
    tab = visit(router)
    page = tab.open(key=router.admin)
    while True:  # until the router has read the campaign
        tab.ask()
        if page.locator("#auction tbody tr").count():
            break
        page.reload()
    expect(page.locator(".assistant .body")).to_contain_text(HOSTILE)
    expect(page.locator(".assistant .ad a")).to_have_text(HOSTILE)
    expect(page.locator("#auction tbody th")).to_contain_text(HOSTILE)
    page.click("text=Campaigns")
    expect(page.locator(".cards .name")).to_have_text(HOSTILE)
    page.get_by_role("button", name="1 creative").click()
    expect(page.locator(".creatives")).to_contain_text("javascript:document.title='owned'")
    assert page.locator(".creatives a").count() == 0
    assert page.locator("main img, main script, main b b, main i").count() == 0
    assert page.title() == "LLM-Auction"
    policy = router.get("/").headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy


def test_everything_is_reachable_with_the_keyboard(start: Start, visit: Visit, demo: Catalogue) -> None:
    router = start("Try {A1}.", catalogue=demo)
    page = visit(router).open()
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("Shoes?")
    page.keyboard.press("Enter")
    page.locator("#auction .raw").wait_for()
    page.keyboard.press("Shift+Tab")  # back from the question, over the options, to the answer
    expect(page.locator(".options summary")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.locator(".again")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#auction")).to_be_focused()
    page.locator(".again").focus()
    page.keyboard.press("Shift+Tab")
    expect(page.locator(".assistant .ad a")).to_be_focused()
    page.keyboard.press("Control+Home")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_a_closed_router_asks_for_a_key(start: Start, visit: Visit) -> None:
    router = start("Try {A1}.", anonymous_chat=False)
    tab = visit(router, errors=1)  # the browser logs the 401 for the wrong key
    page = tab.open()
    expect(page.locator("#question")).to_be_hidden()
    tab.sign_in("lla_" + "x" * 43)
    expect(page.get_by_role("alert").filter(has_text="This key is not valid")).to_be_visible()
    tab.sign_in(router.key("publisher"))
    expect(page.locator("#who")).to_have_text("Publisher")
    tab.ask()
    expect(page.locator("nav [data-view]:visible")).to_have_text(["Playground"])
    assert "lla_" not in page.url
    page.reload()
    expect(page.locator("#question")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#key")).to_be_visible()
    assert page.locator(".turn").count() == 0
    assert page.evaluate("sessionStorage.length") == 0


def test_an_unknown_key_is_rejected_on_a_router_with_open_chat(start: Start, visit: Visit) -> None:
    tab = visit(start())
    page = tab.open("campaigns")
    for wrong in ("something", "schlüssel"):
        tab.sign_in(wrong)
        expect(page.locator("#sign-message")).to_contain_text("key")
    expect(page.locator("#view-campaigns")).to_be_hidden()


def test_a_revoked_key_signs_out(start: Start, visit: Visit, wait_until: Until) -> None:
    router = start(ads=1)
    tab = visit(router, errors=1)
    page = tab.open("campaigns", router.key("advertiser", "Brand1"))
    expect(page.locator(".cards .name")).to_have_count(1)
    number = next(k["id"] for k in router.call("GET", "/v1/keys").json()["items"] if k["role"] == "advertiser")
    router.call("POST", f"/v1/keys/{number}/revoke")
    expect(page.locator("#sign-message")).to_contain_text("no longer valid")
    expect(page.locator(".cards")).to_have_count(0)


@pytest.mark.parametrize("view", ["playground", "campaigns", "revenue"])
def test_nothing_is_wider_than_a_phone(start: Start, visit: Visit, demo: Catalogue, view: str) -> None:
    router = start("Try {A1}.", catalogue=demo)
    tab = visit(router, phone=True)
    page = tab.open(key=router.admin)
    tab.ask()
    page.click(f"nav [data-view={view}]")
    page.locator({"playground": "#auction table", "campaigns": ".cards", "revenue": ".tiles"}[view]).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
