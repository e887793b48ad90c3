"""Which clicks are not charged, and why; and that nothing about a reader is kept as it came."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.clicks.invalid_traffic import ClickRequest, ClickScreen, Invalid, TrafficSettings
from serving.clicks.tokens import Click

KEY = b"a key of the tests, random"
BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1"  # noqa: E501
CLICK = Click("auction-1", "A1", 100, "EUR", expires=10_000, issued=1_000)
PERSON = ClickRequest("GET", {"user-agent": BROWSER}, address="192.0.2.7", user_id="ann")


def judge(click: Click = CLICK, request: ClickRequest = PERSON, now: float = 1_010.0) -> Invalid | None:
    return ClickScreen(KEY).judge(click, request, now)


def with_headers(**headers: str) -> ClickRequest:
    return replace(PERSON, headers={"user-agent": BROWSER} | {k.replace("_", "-"): v for k, v in headers.items()})


def another(number: int, ad_id: str = "A1") -> Click:
    return msgspec.structs.replace(CLICK, auction_id=f"auction-{number}", ad_id=ad_id)


@pytest.mark.parametrize(
    "agent", [BROWSER, PHONE, "Mozilla/5.0 (Linux; Android 10; CUBOT_X18) Chrome/120 Mobile Safari/537.36"]
)
def test_a_person_is_charged(agent: str) -> None:
    assert judge(request=with_headers(user_agent=agent)) is None


@pytest.mark.parametrize(
    ("reason", "request_"),
    [
        (Invalid.HEAD, replace(PERSON, method="HEAD")),
        (Invalid.PREFETCH, with_headers(sec_purpose="prefetch")),
        (Invalid.PREFETCH, with_headers(sec_purpose="prefetch;prerender")),
        (Invalid.PREFETCH, with_headers(purpose="Prefetch")),
        (Invalid.PREFETCH, with_headers(x_purpose="preview")),
        (Invalid.PREFETCH, with_headers(x_moz="prefetch")),
        (Invalid.BOT, replace(PERSON, headers={})),
        (Invalid.BOT, with_headers(user_agent="  ")),
        (
            Invalid.BOT,
            with_headers(user_agent="Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
        ),
        (Invalid.BOT, with_headers(user_agent="curl/8.16.0")),
        (Invalid.BOT, with_headers(user_agent="python-httpx/0.28.1")),
        (Invalid.BOT, with_headers(user_agent="facebookexternalhit/1.1")),
        (Invalid.BOT, with_headers(user_agent="GPTBot/1.2")),
        (Invalid.BOT, with_headers(user_agent=BROWSER.replace("Chrome", "HeadlessChrome"))),
    ],
)
def test_what_no_person_sends_is_not_charged(reason: Invalid, request_: ClickRequest) -> None:
    assert judge(request=request_) is reason


def test_impossible_times_are_not_charged() -> None:
    assert judge(now=1_000.5) is Invalid.TOO_EARLY
    assert judge(now=990) is Invalid.TOO_EARLY
    assert judge(now=1_001) is None
    assert judge(now=9_999.9) is None
    assert judge(now=10_000) is Invalid.EXPIRED
    assert judge(msgspec.structs.replace(CLICK, issued=0), now=1.0) is None


def test_a_reader_or_an_address_pays_for_an_ad_once_in_a_while() -> None:
    screen = ClickScreen(KEY, TrafficSettings(user_window_s=600, address_window_s=60))
    assert screen.judge(another(1), PERSON, 1_010) is None
    assert screen.judge(another(2), PERSON, 1_020) is Invalid.REPEAT_USER
    assert screen.judge(another(3), replace(PERSON, user_id=None), 1_030) is Invalid.REPEAT_ADDRESS
    assert screen.judge(another(4, "A2"), PERSON, 1_030) is None
    elsewhere = replace(PERSON, address="192.0.2.8")
    assert screen.judge(another(5), elsewhere, 1_610) is Invalid.REPEAT_USER  # the repeat began the window anew
    assert screen.judge(another(6), replace(PERSON, user_id="bob"), 1_100) is None
    assert screen.judge(another(7), elsewhere, 2_300) is None


def test_the_same_link_again_is_the_ledgers_business() -> None:
    screen = ClickScreen(KEY)
    assert [screen.judge(CLICK, PERSON, 1_010 + i) for i in range(3)] == [None, None, None]


def test_a_refused_click_does_not_begin_a_window() -> None:
    screen = ClickScreen(KEY)
    assert screen.judge(another(1), replace(PERSON, method="HEAD"), 1_010) is Invalid.HEAD
    assert screen.judge(another(2), PERSON, 1_011) is None


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 3), st.integers(0, 90)), max_size=60))
def test_at_most_one_click_per_reader_and_ad_is_charged_within_a_window(
    clicks: list[tuple[int, int, int, int]],
) -> None:
    screen = ClickScreen(KEY, TrafficSettings(address_window_s=0))
    charged: dict[tuple[int, int], tuple[str, float]] = {}
    now = 1_010.0
    for auction, ad, reader, later in clicks:
        now += later
        click = another(auction, f"A{ad}")
        if screen.judge(click, replace(PERSON, user_id=str(reader)), now) is None:
            before, when = charged.get((ad, reader), (click.id, now))
            assert before == click.id or now - when >= 600
            charged[ad, reader] = (click.id, now)


def test_the_window_is_bounded_and_holds_nothing_personal() -> None:
    screen = ClickScreen(KEY, TrafficSettings(window_size=50))
    for i in range(500):
        agent = with_headers(user_agent=f"{BROWSER} unusual-{i}")
        screen.judge(another(i), replace(agent, address=f"198.51.100.{i}", user_id=f"somebody-{i}"), 1_010)
    held: dict[str, Any] = vars(screen)
    assert len(held["_recent"]) <= 50
    text = repr({name: value for name, value in held.items() if name != "_key"}) + repr(vars(held["_crawlers"]))
    for secret in ("198.51", "somebody", "unusual", "Windows NT"):
        assert secret not in text
    assert held["_crawlers"]._cached_check.cache_info().currsize == 0
    assert "192.0.2.7" not in repr(PERSON)
    assert "Windows" not in repr(PERSON)


@given(st.text(max_size=50), st.text(max_size=50), st.text(max_size=10))
def test_any_headers_get_an_answer(agent: str, purpose: str, method: str) -> None:
    judge(request=ClickRequest(method, {"user-agent": agent, "purpose": purpose}, address=purpose))


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="window_size"):
        TrafficSettings(window_size=0)
    with pytest.raises(ConfigError, match="user_window_s"):
        TrafficSettings(user_window_s=-1)
    with pytest.raises(ConfigError, match="key"):
        ClickScreen(b"short")
