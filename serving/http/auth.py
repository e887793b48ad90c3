"""Who is asking: an API key in the Authorization header, found without the database for as long as it is known."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec
from litestar import Request

from serving.accounts.keys import CACHE_S, PREFIX, AccountStore, Role
from serving.errors import ApiError


class Caller(msgspec.Struct, frozen=True):
    """A key's rights; `role` None is somebody without a key."""

    role: Role | None
    key_id: str = ""
    advertiser_id: str = ""

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return self.role is Role.ADMIN


ANONYMOUS = Caller(None)
_REMEMBERED = 4_096


class Gate:
    """Knows callers by their keys. `anonymous` lets those without one through where a route allows it, and those with a
    stand-in, since OpenAI's clients insist on sending something; what looks like a key of this router must be one."""

    def __init__(self, accounts: AccountStore, anonymous: bool) -> None:
        self._accounts = accounts
        self._anonymous = anonymous
        self._unknown: dict[bytes, float] = {}

    async def caller(self, request: Request[Any, Any, Any], *roles: Role, anonymous: bool = False) -> Caller:
        """Who asks. Raises ApiError: 401 without a valid key, 403 where the key's role is not among `roles`.

        With `anonymous` the route is open to callers without a key, if this server allows any.
        """
        header = request.headers.get("authorization", "")
        scheme, _, secret = header.partition(" ")
        secret = secret.strip() if scheme.lower() == "bearer" else ""
        open_ = anonymous and self._anonymous
        caller = await self._find(secret) if secret else None
        if caller is None:
            if open_ and not secret.startswith(PREFIX):
                return ANONYMOUS
            what = "the API key is not valid, or was revoked" if secret else "no API key was sent"
            message = f"Authorization: {what}: send `Authorization: Bearer KEY`"
            raise ApiError(401, message, "Authorization", "invalid_api_key")
        if caller.role not in roles:
            wanted = " or ".join(role.value for role in roles)
            message = f"Authorization: this key's role is {caller.role}: use a key of role {wanted}"
            raise ApiError(403, message, "Authorization", "forbidden")
        return caller

    async def _find(self, secret: str) -> Caller | None:
        now = datetime.now(UTC)
        key = self._accounts.cached(secret, now)
        if key is None:
            mark, moment = blake2b(secret.encode(errors="replace"), digest_size=16).digest(), time.monotonic()
            if moment - self._unknown.get(mark, -CACHE_S) < CACHE_S:
                return None
            key = await asyncio.to_thread(self._accounts.find, secret, now)
            if key is None:
                if len(self._unknown) >= _REMEMBERED:
                    self._unknown.clear()
                self._unknown[mark] = moment
                return None
        return Caller(key.role, key.id, key.advertiser_id)
