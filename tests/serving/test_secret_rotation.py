"""The rotation of the secret: the new one signs, both verify, and nothing that was given out breaks on the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.rotate_secret import rotate_secret as rotate_command
from mechanism.errors import ConfigError
from serving.clicks.tokens import ClickClaims, TokenError, TokenSigner, key_ring
from serving.database.signatures import Signer
from serving.erasure import pseudonyms
from serving.settings import (
    OTHERS_VARIABLE,
    SECRET_VARIABLE,
    known_secrets,
    other_secrets,
    rotate_secret,
    signing_secret,
)

OLD, NEW, STRANGE = (name * 10 for name in (b"old secret", b"new secret", b"strange secret"))


def test_a_rotation_breaks_no_link_key_or_cursor(router: Any, scripted: Callable[..., Any], tmp_path: Path) -> None:
    def serving(*secrets: bytes) -> Any:
        return router(tmp_path, scripted("Try {A1}."), secrets=secrets, ledger="thread")

    with serving(OLD) as before:
        used, unused = before.key("publisher"), before.key("publisher")
        link = before.ask()["ads"][0]["click_url"].rpartition("/c/")[2]
        cursor = before.call("GET", "/v1/campaigns?limit=2").json()["cursor"]
    with serving(NEW, OLD) as during:
        assert during.call("GET", "/v1/models", used).status_code == 200
        assert during.call("GET", f"/v1/campaigns?limit=2&cursor={cursor}").status_code == 200
        for _ in range(2):
            assert during.click(f"{during.url}/c/{link}").status_code == 302
        during.wait_until_charged()
        assert during.revenue() == {"EUR": 100_000}  # charged once
        newer = during.ask()["ads"][0]["click_url"].rpartition("/c/")[2]
        following = during.call("GET", "/v1/campaigns?limit=2").json()["cursor"]
    with serving(NEW) as after:
        assert after.click(f"{after.url}/c/{newer}").status_code == 302
        assert after.click(f"{after.url}/c/{link}").status_code == 404
        assert after.call("GET", "/v1/models", used).status_code == 200  # its use hashed it under the new secret
        assert after.call("GET", "/v1/models", unused).status_code == 401
        assert after.call("GET", f"/v1/campaigns?limit=2&cursor={following}").status_code == 200
        assert after.call("GET", f"/v1/campaigns?limit=2&cursor={cursor}").json()["error"]["param"] == "cursor"


def test_the_next_secret_verifies_before_it_signs() -> None:
    """Routers restart one after another: each must read what the others already sign under the new secret."""
    claims = ClickClaims("auction", "A1", 5, "EUR", 100)
    first, second = TokenSigner(key_ring([OLD, NEW])), TokenSigner(key_ring([NEW, OLD]))
    assert first.read(second.sign(claims), 0) == second.read(first.sign(claims), 0) == claims
    with pytest.raises(TokenError):
        TokenSigner(key_ring([NEW])).read(first.sign(claims), 0)
    earlier = TokenSigner(OLD).sign(claims)  # of a version without rotation
    assert TokenSigner(key_ring([NEW, OLD])).read(earlier, 0) == claims


@given(st.binary(max_size=40), st.sampled_from(["a", "b", "ab"]), st.integers(0, 80))
def test_a_signed_text_verifies_unchanged_and_for_its_purpose(data: bytes, purpose: str, at: int) -> None:
    text = Signer([NEW, OLD]).sign(purpose, data)
    assert Signer([STRANGE, NEW]).verify(purpose, text) == data
    assert Signer([STRANGE]).verify(purpose, text) is None
    assert Signer([NEW]).verify(purpose + "x", text) is None
    changed = text[: at % len(text)] + ("A" if text[at % len(text)] != "A" else "B") + text[at % len(text) + 1 :]
    assert Signer([NEW]).verify(purpose, changed) is None
    assert Signer([NEW]).verify(purpose, "é" + text) is None


def test_the_command_replaces_the_secret_and_forgets_former_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    old = signing_secret(tmp_path, {})
    rotate_command(tmp_path)
    new = signing_secret(tmp_path, {})
    assert new != old
    assert known_secrets(tmp_path, {}) == (new, old)
    assert len(pseudonyms("reader", known_secrets(tmp_path, {}))) == 2  # an erasure finds what both wrote
    rotate_command(tmp_path)
    assert known_secrets(tmp_path, {})[1:] == (new, old)
    rotate_command(tmp_path, forget=True)
    assert other_secrets(tmp_path, {}) == ()
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    assert old.decode() not in capsys.readouterr().out
    with pytest.raises(ConfigError):
        rotate_secret(tmp_path / "none")
    monkeypatch.setenv(SECRET_VARIABLE, "x" * 40)
    with pytest.raises(ConfigError, match=SECRET_VARIABLE):
        rotate_secret(tmp_path)


def test_the_environment_gives_other_secrets(tmp_path: Path) -> None:
    given = {SECRET_VARIABLE: "n" * 40, OTHERS_VARIABLE: f"{'o' * 40}\n{'p' * 40}"}
    assert known_secrets(tmp_path, given) == (b"n" * 40, b"o" * 40, b"p" * 40)
    with pytest.raises(ConfigError, match=OTHERS_VARIABLE) as refused:
        other_secrets(tmp_path, {OTHERS_VARIABLE: "hunter2"})
    assert "hunter2" not in str(refused.value)


def test_a_key_is_accepted_for_a_while_without_the_database(start: Callable[..., Any]) -> None:
    from sqlalchemy.exc import OperationalError

    router = start("Hello.", stale_keys_s=60.0)
    key, revoked = router.key("publisher"), router.key("publisher")
    for secret in (key, revoked):
        assert router.call("GET", "/v1/models", secret).status_code == 200
    accounts = router.router.accounts
    number = accounts.find(revoked, datetime.now(UTC)).id
    accounts.revoke(number, datetime.now(UTC))
    assert router.call("GET", "/v1/models", key).status_code == 200  # a revocation empties the cache

    def away(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("away"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts._database, "read", away)
        clock = patch_clock(patch, 30)
        assert router.call("GET", "/v1/models", key).status_code == 200
        assert router.call("GET", "/v1/models", revoked).status_code == 503
        clock[0] = 120
        assert router.call("GET", "/v1/models", key).status_code == 503


def patch_clock(patch: pytest.MonkeyPatch, ahead: float) -> list[float]:
    """Let the clock of the keys' cache run ahead by the first item of the result, in seconds."""
    import time
    from types import SimpleNamespace

    by = [ahead]
    patch.setattr("serving.accounts.keys.time", SimpleNamespace(monotonic=lambda: time.monotonic() + by[0]))
    return by
