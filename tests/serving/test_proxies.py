"""The reader's address behind load balancers: believed from trusted proxies only, from the right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from mechanism.markers import render_marker
from serving.http.proxies import FORWARDED, TrustedProxies, network_of

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48"])
RFC7239 = TrustedProxies(["10.0.0.0/8"], FORWARDED)


def x_forwarded(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", value.encode()) for value in values]


def forwarded(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"forwarded", value.encode()) for value in values]


@pytest.mark.parametrize(
    ("peer", "values", "reader"),
    [
        ("10.1.2.3", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.2.3", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the left one was sent by the reader
        ("10.1.2.3", ["198.51.100.7, 10.9.9.9"], "198.51.100.7"),
        ("10.1.2.3", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),  # a header sent twice
        ("10.1.2.3", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.1.2.3", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.1.2.3", ["2001:db8::7, 2001:db8:1::5"], "2001:db8::7"),
        ("::ffff:10.1.2.3", ["198.51.100.7"], "198.51.100.7"),
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", ["unknown"], "10.1.2.3"),
        ("10.1.2.3", ["203.0.113.9, unknown"], "10.1.2.3"),  # what is left of it cannot be told
        ("10.1.2.3", ["10.4.4.4, 10.5.5.5"], "10.4.4.4"),
        ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),  # forged: the peer is not a proxy
        ("127.0.0.1", ["203.0.113.9"], "127.0.0.1"),
    ],
)
def test_the_rightmost_untrusted_address_is_the_readers(peer: str, values: list[str], reader: str) -> None:
    assert PROXIES.client(peer, x_forwarded(*values)) == reader


@pytest.mark.parametrize(
    ("value", "reader"),
    [
        ("for=198.51.100.7", "198.51.100.7"),
        ('for=203.0.113.9;proto=http, for="198.51.100.7:80";by=10.0.0.1;proto=https', "198.51.100.7"),
        ('For="[2001:db8::7]:4711"', "2001:db8::7"),
        ("for=198.51.100.7, for=10.2.2.2", "198.51.100.7"),
        ("for=_hidden", "10.1.2.3"),
        ('for="198.51.100.7', "10.1.2.3"),
        ("for=203.0.113.9, for=", "10.1.2.3"),
        ("proto=https", "10.1.2.3"),
    ],
)
def test_the_standard_header_is_read_if_it_is_the_chosen_one(value: str, reader: str) -> None:
    assert RFC7239.client("10.1.2.3", forwarded(value)) == reader
    assert PROXIES.client("10.1.2.3", forwarded(value)) == "10.1.2.3"
    assert RFC7239.client("10.1.2.3", x_forwarded("203.0.113.9")) == "10.1.2.3"


def test_the_scheme_is_that_of_the_nearest_trusted_proxy() -> None:
    header = [(b"x-forwarded-proto", b"http, https")]
    assert PROXIES.scheme("10.1.2.3", header) == "https"
    assert PROXIES.scheme("198.51.100.7", header) == ""
    assert PROXIES.scheme("10.1.2.3", [(b"x-forwarded-proto", b"gopher")]) == ""
    assert RFC7239.scheme("10.1.2.3", forwarded("for=1.2.3.4;proto=http, for=10.2.2.2;proto=https")) == "https"


@given(st.text(max_size=60), st.sampled_from(["10.1.2.3", "198.51.100.7", "testclient"]))
def test_any_header_is_handled(text: str, peer: str) -> None:
    for proxies, name in ((PROXIES, b"x-forwarded-for"), (RFC7239, b"forwarded")):
        headers = [(name, text.encode("latin-1", errors="replace"))]
        found = proxies.client(peer, headers)
        assert peer in (found, "10.1.2.3")
        proxies.scheme(peer, headers)


def test_one_subscriber_is_one_source() -> None:
    assert network_of("2001:db8:5:6:1:2:3:4") == network_of("2001:db8:5:6::99") != network_of("2001:db8:5:7::99")
    assert network_of("192.0.2.7") == "192.0.2.7"


def test_a_bad_network_is_named() -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        TrustedProxies(["10.0.0.0/99"])


def reasons(router: Any, **headers: str) -> list[str]:
    """Return the reason of each of three clicks on the same ad in three answers, from three reported addresses."""
    for number in range(3):
        given = {name.replace("_", "-"): value.format(number) for name, value in headers.items()}
        router.click(router.ask()["ads"][0]["click_url"], headers=given)
    return clicked(router)


def clicked(router: Any) -> list[str]:
    """Return the reasons of all clicks, in the order of time."""
    return [click.reason for click in sorted(router.logged("clicks"), key=lambda click: click.occurred_at)]


def test_readers_behind_a_trusted_proxy_are_told_apart(start: Callable[..., Any]) -> None:
    router = start("Try {A1}.", trusted_proxies=("127.0.0.0/8",))
    assert reasons(router, X_Forwarded_For="203.0.113.1, 198.51.100.{}") == ["", "", ""]
    assert router.ask()["ads"][0]["click_url"].startswith("http://127")


def test_a_forged_header_from_an_untrusted_address_changes_nothing(start: Callable[..., Any]) -> None:
    router = start("Try {A1}.")  # uvicorn alone would believe it from 127.0.0.1
    headers = {"X_Forwarded_For": "198.51.100.{}", "Forwarded": "for=198.51.100.{}"}
    assert reasons(router, **headers) == ["", "repeat_address", "repeat_address"]


def test_a_known_reader_is_recognised_at_another_address(start: Callable[..., Any]) -> None:
    router = start("Try {A1}.", trusted_proxies=("127.0.0.0/8",))
    for number, user in enumerate(("ann", "ann", "bob")):
        ad = router.ask(ads={"user_id": user, "consent": True})["ads"][0]
        router.click(ad["click_url"], headers={"X-Forwarded-For": f"198.51.100.{number}"})
    assert clicked(router) == ["", "repeat_user", ""]


def test_links_of_a_slow_answer_are_sent_at_its_end(start: Callable[..., Any]) -> None:
    def script(context: Any) -> Any:
        yield f"Try {render_marker(context.candidates[0].ad)} first."
        time.sleep(2.5)
        yield " And more."

    router = start(script=script)
    answer = router.ask()
    assert answer["choices"][0]["message"]["content"].count(answer["ads"][0]["click_url"]) == 1
    router.click(answer["ads"][0]["click_url"], age_s=0)  # 2.5 s after the link was written, 0 s after it was sent
    assert clicked(router) == ["too_early"]
