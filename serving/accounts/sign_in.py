"""One-time tokens that open the console signed in: made on the router's machine, exchanged once for a session.

`llm-auction run` prints an address with a token. The file in the state directory holds the token's hash alone and is
removed by the exchange, so a restarted router does not accept a token twice. The session itself is an administrator's
key of short life (`serving.accounts.keys`), which the browser keeps in a cookie that no script can read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from mechanism.files import replace_file

TOKEN_FILE = "sign-in"
TOKEN_LIFE = timedelta(hours=24)
FRAGMENT = "sign-in="
"""Begins the part of the address that holds the token. Browsers send a fragment to no server, and in no Referer."""


class _Stored(msgspec.Struct, frozen=True):
    sha256: str
    expires_at: datetime


def sign_in_address(address: str, state_dir: Path, now: datetime) -> str:
    """Return the address that opens the console of the router at `address` signed in, once, within 24 hours.

    An earlier address of this state directory is no longer valid.
    """
    token = secrets.token_urlsafe(32)
    path = state_dir / TOKEN_FILE
    state_dir.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.encode(_Stored(_hash(token), now + TOKEN_LIFE)))
    return f"{address}/#{FRAGMENT}{token}"


def take_token(state_dir: Path, token: str, now: datetime) -> bool:
    """Return whether the token is valid, and use it up; of two exchanges at the same time one succeeds."""
    path = state_dir / TOKEN_FILE
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
    except (OSError, msgspec.DecodeError):
        return False
    if not hmac.compare_digest(_hash(token), stored.sha256) or now >= stored.expires_at:
        return False
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
