"""API keys: the caller of each request, and `/v1/keys` to issue, list, rotate and revoke them.

A key is read from the Authorization header, or from the console's session cookie, and found without the database while
it is cached. Its secret is shown once, in the response that issues it. Administrators manage all keys, the
managers of an advertiser those of its users; any key may rotate or revoke itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import ParamSpec, TypeVar

import msgspec
import structlog
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import InputError
from mechanism.sanitize import clean_title
from serving.accounts.keys import CACHE_S, LONGEST_OVERLAP, OF_ADVERTISERS, PREFIX, AccountStore, Role
from serving.campaigns.changes import Actor
from serving.errors import ApiError, BadRequest
from serving.http.bodies import HttpRequest, aware, decode_body, json_response, only
from serving.http.documents import documented
from serving.http.rate_limits import RateLimits
from serving.http.sessions import session_secret
from serving.router import Router
from serving.settings import ServeSettings

log = structlog.get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class Caller(msgspec.Struct, frozen=True):
    """The rights of a key; `role` is None for a caller without a key."""

    role: Role | None
    key_id: str = ""
    advertiser_id: str = ""
    publisher_id: str = ""
    label: str = ""

    @property
    def actor(self) -> Actor:
        """The key, as the history of changes names it."""
        return Actor(role=self.role.value if self.role else "", key_id=self.key_id, name=self.label)

    def owner(self, named: str) -> str:
        """Return the advertiser that a request is about: the caller's own; an administrator names one, or none.

        Raises:
            ApiError: 403 if a key of an advertiser names another advertiser.
        """
        if self.is_admin:
            return named
        if named not in ("", self.advertiser_id):
            message = "advertiser_id: leave it out: this key is another advertiser's"
            raise ApiError(403, message, "advertiser_id", "forbidden")
        return self.advertiser_id

    @property
    def is_of_advertiser(self) -> bool:
        """Whether the key is one of an advertiser's users, who see what is their advertiser's."""
        return self.role in OF_ADVERTISERS

    @property
    def is_admin(self) -> bool:
        """Whether the key is an administrator's, which may do everything."""
        return self.role is Role.ADMIN


ANONYMOUS = Caller(None)
READERS = (Role.ADMIN, *OF_ADVERTISERS)
"""Who reads campaigns, reports and accounts: an advertiser's users their own."""
MANAGERS = (Role.ADMIN, Role.ADVERTISER)
"""Who books campaigns and issues keys."""
_MOST_UNKNOWN = 4_096


class Gate:
    """Identifies callers by their keys.

    With `anonymous_chat`, routes that allow it are open to callers without a key, and to those that send a placeholder,
    as OpenAI's clients require one; a secret with this router's prefix must be a valid key. While the database is away,
    keys that were valid within the last `stale_keys_s` seconds are.
    """

    def __init__(self, accounts: AccountStore, settings: ServeSettings, limits: RateLimits) -> None:
        self._accounts = accounts
        self._stale_s = settings.stale_keys_s
        self._limits = limits
        self._anonymous = settings.anonymous_chat
        self._unknown: dict[bytes, float] = {}

    async def caller(self, request: HttpRequest, *roles: Role, anonymous: bool = False) -> Caller:
        """Return the caller; with `anonymous`, the route is open without a key if this server allows it.

        Raises:
            ApiError: 401 without a valid key, 403 if the key's role is not among `roles`, 429 past a rate limit.
        """
        secret = _secret(request)
        caller = await self._find(secret) if secret else None
        if caller is None:
            self._limits.admit_address(request)
            if anonymous and self._anonymous and not secret.startswith(PREFIX):
                return ANONYMOUS
            fault = "the API key is not valid, or was revoked" if secret else "no API key was sent"
            message = f"Authorization: {fault}: send `Authorization: Bearer KEY`"
            raise ApiError(401, message, "Authorization", "invalid_api_key")
        self._limits.admit_key(caller.key_id)
        if caller.role not in roles:
            wanted = " or ".join(role.value for role in roles)
            message = f"Authorization: this key's role is {caller.role}: use a key of role {wanted}"
            raise ApiError(403, message, "Authorization", "forbidden")
        return caller

    async def _find(self, secret: str) -> Caller | None:
        """Find the key of a secret; unknown secrets are cached as well, so that guesses do not load the database.

        Raises:
            SQLAlchemyError: if the database is away, and has been for too long.
        """
        now = datetime.now(UTC)
        key = self._accounts.cached(secret, now)
        if key is None:
            digest, moment = blake2b(secret.encode(errors="replace"), digest_size=16).digest(), time.monotonic()
            if moment - self._unknown.get(digest, -CACHE_S) < CACHE_S:
                return None
            try:
                key = await asyncio.to_thread(self._accounts.find, secret, now)
            except SQLAlchemyError as error:
                key = self._accounts.cached(secret, now, self._stale_s)
                if key is None:
                    raise
                log.warning("key.stale", key_id=key.id, reason=type(error).__name__)
            if key is None:
                if len(self._unknown) >= _MOST_UNKNOWN:
                    self._unknown.clear()
                self._unknown[digest] = moment
                return None
        return Caller(key.role, key.id, key.advertiser_id, key.publisher_id, key.label)


def _secret(request: HttpRequest) -> str:
    """Return the key of the Authorization header, else that of a console's session; empty without any."""
    header = request.headers.get("authorization")
    if header is None:
        return session_secret(request)
    scheme, _, secret = header.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


class KeyInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key to issue; `advertiser_id` for the roles advertiser and viewer, `publisher_id` for the role publisher.

    `label` names who will use it. An advertiser's manager may leave out the advertiser.
    """

    role: Role
    label: str
    advertiser_id: str = ""
    publisher_id: str = ""
    expires_at: datetime | None = None


class RotateInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the old key stays valid beside the new one, in seconds."""

    overlap_s: int = 3_600


_KEY = msgspec.json.Decoder(KeyInput)
_ROTATE = msgspec.json.Decoder(RotateInput)


def key_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of `/v1/keys`."""
    accounts = router.accounts

    async def check_managed(caller: Caller, key_id: str) -> None:
        """Refuse another owner's key, as if it did not exist.

        Raises:
            ApiError: 404 unless the caller is an administrator, the key itself, or its advertiser's manager.
        """
        if caller.is_admin or caller.key_id == key_id:
            return
        if caller.role is Role.ADVERTISER:
            key = await asyncio.to_thread(accounts.get, key_id)
            if key is not None and key.advertiser_id == caller.advertiser_id:
                return
        raise ApiError(404, f"key: {key_id[:64]!r}: no API key has this id", "key", "not_found")

    @post("/v1/keys", status_code=201, opt=documented(KeyInput, answer="The key with its secret, shown once."))
    async def create_key(request: HttpRequest) -> Response[bytes]:
        """Issue an API key.

        Raises:
            BadRequest: if the key would have expired already.
        """
        caller = await gate.caller(request, *MANAGERS)
        given = _for(caller, decode_body(await request.body(), _KEY))
        now, expires_at = datetime.now(UTC), aware("expires_at", given.expires_at)
        if expires_at is not None and not now < expires_at < now + timedelta(days=36_500):
            raise BadRequest("expires_at", expires_at.isoformat(), "give a time in the future")
        label = clean_title(given.label, "label")
        # Spelt as in campaigns: in another spelling the advertiser would find none of its campaigns.
        advertiser = clean_title(given.advertiser_id, "advertiser_id") if given.advertiser_id else ""
        issued = await asyncio.to_thread(
            lambda: accounts.issue(
                given.role,
                label,
                now,
                advertiser_id=advertiser,
                publisher_id=given.publisher_id,
                expires_at=expires_at,
                by=caller.actor,
            )
        )
        log.info("key.issued", key_id=issued.key.id, role=given.role.value)
        return json_response(issued, 201)

    @get(
        "/v1/keys",
        opt=documented(query={"advertiser_id": "only this advertiser's keys"}, answer="Keys without secrets."),
    )
    async def list_keys(request: HttpRequest) -> Response[bytes]:
        """List keys: an administrator's all, an advertiser's own."""
        caller = await gate.caller(request, Role.ADMIN, *OF_ADVERTISERS)
        only(request.query_params, {"advertiser_id"})
        keys = await asyncio.to_thread(accounts.keys, caller.owner(request.query_params.get("advertiser_id", "")))
        return json_response({"items": keys})

    @post(
        "/v1/keys/{key_id:str}/rotate",
        status_code=201,
        opt=documented(RotateInput, answer="A new key with its secret; the old key ends after the overlap."),
    )
    async def rotate_key(request: HttpRequest, key_id: FromPath[str]) -> Response[bytes]:
        """Replace a key by a new one.

        Raises:
            BadRequest: if the overlap is too long.
        """
        caller = await gate.caller(request, *Role)
        await check_managed(caller, key_id)
        body = await request.body()
        overlap = (decode_body(body, _ROTATE) if body.strip() else RotateInput()).overlap_s
        longest = int(LONGEST_OVERLAP.total_seconds())
        if not 0 <= overlap <= longest:
            raise BadRequest("overlap_s", overlap, f"give seconds from 0 to {longest}")
        issued = await _found(accounts.rotate, key_id, timedelta(seconds=overlap), datetime.now(UTC), caller.actor)
        log.info("key.rotated", key_id=key_id, new_key_id=issued.key.id)
        return json_response(issued, 201)

    @post("/v1/keys/{key_id:str}/revoke", status_code=200, opt=documented(answer="The revoked key."))
    async def revoke_key(request: HttpRequest, key_id: FromPath[str]) -> Response[bytes]:
        """Revoke a key at once; it cannot be restored."""
        caller = await gate.caller(request, *Role)
        await check_managed(caller, key_id)
        revoked = await _found(accounts.revoke, key_id, datetime.now(UTC), caller.actor)
        log.info("key.revoked", key_id=key_id)
        return json_response(revoked)

    return [create_key, list_keys, rotate_key, revoke_key]


def _for(caller: Caller, given: KeyInput) -> KeyInput:
    """Return the key to issue: an advertiser's manager issues keys of its own advertiser's users alone.

    Raises:
        ApiError: 403 for a key that the caller may not issue.
    """
    if caller.is_admin:
        return given
    if given.role not in OF_ADVERTISERS:
        message = f"role: {given.role.value!r}: this key issues {' and '.join(OF_ADVERTISERS)} alone"
        raise ApiError(403, message, "role", "forbidden")
    return msgspec.structs.replace(given, advertiser_id=caller.owner(given.advertiser_id))


async def _found(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` on a thread.

    Raises:
        ApiError: 404 if no key has this id.
        InputError: for other wrong input.
    """
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except InputError as error:
        if error.place != "key":
            raise
        raise ApiError(404, str(error), "key", "not_found") from error
