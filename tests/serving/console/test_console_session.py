"""Signing in by a one-time address: exchanged once for a cookie that no script and no other page can use."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from cli.main import app
from cli.run import invitation
from cli.sign_in import sign_in
from mechanism.errors import ConfigError
from serving.accounts.keys import SESSION_LIFE, ensure_administrator
from serving.accounts.sign_in import TOKEN_LIFE, sign_in_address, take_token

Start = Callable[..., Any]
Visit = Callable[..., Any]
NOW = datetime(2026, 11, 29, tzinfo=UTC)
CONSOLE = {"X-LLM-Auction-Console": "1"}


def token_of(address: str) -> str:
    return address.partition("#sign-in=")[2]


def exchange(router: Any, token: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{router.url}/v1/session", json={"token": token}, headers=CONSOLE | headers)


def test_the_address_opens_the_console_signed_in_once(start: Start, visit: Visit) -> None:
    router = start("Try {A1}.", ads=2)
    address = sign_in_address(router.url, router.settings.state_dir, datetime.now(UTC))
    tab = visit(router)
    requested: list[str] = []
    tab.page.on("request", lambda request: requested.append(str((request.url, request.headers))))
    tab.page.goto(address)
    expect(tab.page.locator("#who")).to_have_text("Administrator")
    tab.page.click("nav [data-view=campaigns]")
    expect(tab.page.locator(".cards .name")).to_have_count(2)
    tab.page.click("nav [data-view=revenue]")
    expect(tab.page.locator("#view-revenue")).to_be_visible()
    expect(tab.page.locator("#series-fresh")).not_to_be_empty()
    assert not [line for line in requested if token_of(address) in line]
    assert token_of(address) not in tab.page.url
    [cookie] = tab.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert tab.page.evaluate("document.cookie + sessionStorage.length") == "0"
    tab.page.reload()
    expect(tab.page.locator("#who")).to_have_text("Administrator")

    other = visit(router, errors=1)  # the browser logs the 401
    other.page.goto(address)
    expect(other.page.locator("#sign-message")).to_contain_text("This address signs in once")
    expect(other.page.locator("#who")).to_have_text("")


def test_signing_out_ends_the_session(start: Start, visit: Visit) -> None:
    router = start(ads=1)
    tab = visit(router)
    tab.page.goto(sign_in_address(router.url, router.settings.state_dir, datetime.now(UTC)))
    expect(tab.page.locator("#who")).to_have_text("Administrator")
    secret = tab.page.context.cookies()[0]["value"]
    assert router.call("GET", "/v1/keys", secret).status_code == 200
    tab.page.get_by_role("button", name="Sign out").click()
    expect(tab.page.locator("#who")).to_have_text("")
    tab.page.reload()
    expect(tab.page.get_by_role("button", name="Sign in").first).to_be_visible()
    assert tab.page.context.cookies() == []
    assert router.call("GET", "/v1/keys", secret).status_code == 401


def test_a_cookie_counts_for_requests_of_the_console_alone(start: Start) -> None:
    router = start(ads=0)
    token = token_of(sign_in_address(router.url, router.settings.state_dir, datetime.now(UTC)))
    opened = exchange(router, token)
    assert opened.status_code == 201
    assert "samesite=strict" in opened.headers["set-cookie"].lower()
    assert token not in opened.text + str(opened.headers)
    cookie = {"Cookie": opened.headers["set-cookie"].split(";")[0]}
    assert router.get("/v1/keys", headers=cookie | CONSOLE).status_code == 200
    assert router.get("/v1/keys", headers=cookie).status_code == 401  # a form or an image of another page
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-llm-auction-console"}
    preflight = httpx.options(f"{router.url}/v1/keys", headers=cookie | asked | {"Origin": "http://localhost:3000"})
    assert "access-control-allow-origin" not in preflight.headers
    assert exchange(router, token).status_code == 401
    for wrong in ("", "x", "é" * 9):
        assert exchange(router, wrong).status_code == 401


def test_a_token_is_used_once_and_expires(tmp_path: Path) -> None:
    first, second = (token_of(sign_in_address("http://x", tmp_path, NOW)) for _ in range(2))
    assert first not in (tmp_path / "sign-in").read_text()
    assert not take_token(tmp_path, first, NOW)  # a newer address replaces it
    assert not take_token(tmp_path, second, NOW + TOKEN_LIFE)
    assert take_token(tmp_path, second, NOW)
    assert not take_token(tmp_path, second, NOW)


def test_a_session_is_no_reason_to_have_no_administrators_key(start: Start, tmp_path: Path) -> None:
    router = start(ads=0)
    accounts, now = router.router.accounts, datetime.now(UTC)
    for key in accounts.keys():  # noqa: SIM118
        accounts.revoke(key.id, now)
    session = accounts.open_session(now)
    assert session.key.expires_at == now + SESSION_LIFE
    assert ensure_administrator(accounts, tmp_path, now, {}) is not None
    assert accounts.find(session.secret, now + SESSION_LIFE + timedelta(seconds=1)) is None


def test_run_prints_the_address_in_a_terminal_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unsaid = invitation("http://localhost:8080", tmp_path, is_terminal=False)
    assert "#sign-in=" not in unsaid
    assert f"sign-in --state-dir {tmp_path}`" in unsaid
    shown = invitation("http://localhost:8080", tmp_path, is_terminal=True)
    assert take_token(tmp_path, token_of(shown), datetime.now(UTC))
    app(["sign-in", "--state-dir", str(tmp_path), "--url", "http://ads.example/"], standalone_mode=False)
    printed = capsys.readouterr().out.strip()
    assert printed.startswith("http://ads.example/#sign-in=")
    assert take_token(tmp_path, token_of(printed), datetime.now(UTC))
    with pytest.raises(ConfigError, match="state-dir"):
        sign_in(tmp_path / "none", "http://ads.example")
