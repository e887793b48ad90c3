"""Which clicks are not charged, and why; no personal data is stored in clear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.clicks.invalid_traffic import ClickRequest, ClickScreen, InvalidReason, TrafficSettings
from serving.clicks.tokens import ClickClaims

KEY = b"a key of the tests, random"
BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1"  # noqa: E501
CLAIMS = ClickClaims("auction-1", "A1", 100, "EUR", expires=10_000, issued=1_000, reader="ann")
PERSON = ClickRequest("GET", {"user-agent": BROWSER}, address="192.0.2.7")


def check(claims: ClickClaims = CLAIMS, request: ClickRequest = PERSON, now: float = 1_010.0) -> InvalidReason | None:
    return ClickScreen(KEY).check(claims, request, now)


def with_headers(**headers: str) -> ClickRequest:
    return replace(PERSON, headers={"user-agent": BROWSER} | {k.replace("_", "-"): v for k, v in headers.items()})


def another(number: int, ad_id: str = "A1", reader: str = "ann") -> ClickClaims:
    return msgspec.structs.replace(CLAIMS, auction_id=f"auction-{number}", ad_id=ad_id, reader=reader)


@pytest.mark.parametrize(
    "agent", [BROWSER, PHONE, "Mozilla/5.0 (Linux; Android 10; CUBOT_X18) Chrome/120 Mobile Safari/537.36"]
)
def test_a_click_of_a_person_is_valid(agent: str) -> None:
    assert check(request=with_headers(user_agent=agent)) is None


@pytest.mark.parametrize(
    ("reason", "request_"),
    [
        (InvalidReason.HEAD, replace(PERSON, method="HEAD")),
        (InvalidReason.PREFETCH, with_headers(sec_purpose="prefetch")),
        (InvalidReason.PREFETCH, with_headers(sec_purpose="prefetch;prerender")),
        (InvalidReason.PREFETCH, with_headers(purpose="Prefetch")),
        (InvalidReason.PREFETCH, with_headers(x_purpose="preview")),
        (InvalidReason.PREFETCH, with_headers(x_moz="prefetch")),
        (InvalidReason.BOT, replace(PERSON, headers={})),
        (InvalidReason.BOT, with_headers(user_agent="  ")),
        (
            InvalidReason.BOT,
            with_headers(user_agent="Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
        ),
        (InvalidReason.BOT, with_headers(user_agent="curl/8.16.0")),
        (InvalidReason.BOT, with_headers(user_agent="python-httpx/0.28.1")),
        (InvalidReason.BOT, with_headers(user_agent="facebookexternalhit/1.1")),
        (InvalidReason.BOT, with_headers(user_agent="GPTBot/1.2")),
        (InvalidReason.BOT, with_headers(user_agent=BROWSER.replace("Chrome", "HeadlessChrome"))),
    ],
)
def test_requests_that_no_person_sends_are_not_charged(reason: InvalidReason, request_: ClickRequest) -> None:
    assert check(request=request_) is reason


def test_impossible_times_are_not_charged() -> None:
    assert check(now=1_000.5) is InvalidReason.TOO_EARLY
    assert check(now=990) is InvalidReason.TOO_EARLY
    assert check(now=1_001) is None
    assert check(now=9_999.9) is None
    assert check(now=10_000) is InvalidReason.EXPIRED
    assert check(msgspec.structs.replace(CLAIMS, issued=0), now=1.0) is None


def test_repeats_by_reader_or_address_are_not_charged() -> None:
    screen = ClickScreen(KEY, TrafficSettings(user_window_s=600, address_window_s=60))
    assert screen.check(another(1), PERSON, 1_010) is None
    assert screen.check(another(2), PERSON, 1_020) is InvalidReason.REPEAT_USER
    assert screen.check(another(4, "A2"), PERSON, 1_030) is None
    elsewhere = replace(PERSON, address="192.0.2.8")
    assert screen.check(another(5), elsewhere, 1_609) is InvalidReason.REPEAT_USER
    assert screen.check(another(7), elsewhere, 1_610) is None
    assert screen.check(another(8, reader=""), PERSON, 1_700) is None
    assert screen.check(another(9, reader=""), PERSON, 1_730) is InvalidReason.REPEAT_ADDRESS


def test_a_window_does_not_slide() -> None:
    screen = ClickScreen(KEY, TrafficSettings(address_window_s=60))
    found = [screen.check(another(i, reader=""), PERSON, 1_010 + 10 * i) for i in range(13)]
    assert [i for i, reason in enumerate(found) if reason is None] == [0, 6, 12]


def test_readers_and_browsers_behind_one_address_are_told_apart() -> None:
    screen = ClickScreen(KEY)
    known = [screen.check(another(i, reader=f"reader-{i}"), PERSON, 1_010) for i in range(1_000)]
    unknown = [
        screen.check(another(2_000 + i, reader=""), with_headers(user_agent=f"{BROWSER} {i}"), 1_010)
        for i in range(1_000)
    ]
    assert set(known) == set(unknown) == {None}


def test_reading_time_counts_from_when_the_link_was_sent() -> None:
    late = msgspec.structs.replace(CLAIMS, delay_ms=8_400)
    assert check(late, now=1_009.3) is InvalidReason.TOO_EARLY
    assert check(late, now=1_009.4) is None


def test_the_same_link_again_is_no_repeat() -> None:
    screen = ClickScreen(KEY)
    assert [screen.check(CLAIMS, PERSON, 1_010 + i) for i in range(3)] == [None, None, None]


def test_an_invalid_click_does_not_start_a_window() -> None:
    screen = ClickScreen(KEY)
    assert screen.check(another(1), replace(PERSON, method="HEAD"), 1_010) is InvalidReason.HEAD
    assert screen.check(another(2), PERSON, 1_011) is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 3), st.integers(0, 90)), max_size=60))
def test_at_most_one_click_per_reader_and_ad_is_charged_within_a_window(
    clicks: list[tuple[int, int, int, int]],
) -> None:
    screen = ClickScreen(KEY, TrafficSettings(address_window_s=0))
    charged: dict[tuple[int, int], tuple[str, float]] = {}
    now = 1_010.0
    for auction, ad, reader, later in clicks:
        now += later
        claims = another(auction, f"A{ad}", str(reader))
        if screen.check(claims, PERSON, now) is None:
            before, when = charged.get((ad, reader), (claims.id, now))
            assert before == claims.id or now - when >= 600
            if now - when >= 600 or (ad, reader) not in charged:
                charged[ad, reader] = (claims.id, now)


def test_the_window_is_bounded_and_holds_no_personal_data() -> None:
    screen = ClickScreen(KEY, TrafficSettings(window_size=50))
    for i in range(500):
        agent = with_headers(user_agent=f"{BROWSER} unusual-{i}")
        screen.check(another(i, reader=f"reader-{i}"), replace(agent, address=f"198.51.100.{i}"), 1_010)
    held: dict[str, Any] = vars(screen)
    assert len(held["_recent"]) <= 50
    text = repr({name: value for name, value in held.items() if name != "_key"}) + repr(vars(held["_crawlers"]))
    for secret in ("198.51", "reader", "unusual", "Windows NT"):
        assert secret not in text
    assert held["_crawlers"]._cached_check.cache_info().currsize == 0
    assert "192.0.2.7" not in repr(PERSON)
    assert "Windows" not in repr(PERSON)


@given(st.text(max_size=50), st.text(max_size=50), st.text(max_size=10))
def test_any_headers_are_handled(agent: str, purpose: str, method: str) -> None:
    check(request=ClickRequest(method, {"user-agent": agent, "purpose": purpose}, address=purpose))


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="window_size"):
        TrafficSettings(window_size=0)
    with pytest.raises(ConfigError, match="user_window_s"):
        TrafficSettings(user_window_s=-1)
    with pytest.raises(ConfigError, match="key"):
        ClickScreen(b"short")
