"""`/v1/keys`: issue, list, rotate and revoke API keys. A secret is in one answer and nowhere else.

Administrators manage all keys; any key may rotate or revoke itself.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from mechanism.errors import InputError
from mechanism.sanitize import clean_title
from serving.accounts.keys import LONGEST_OVERLAP, Role
from serving.errors import ApiError, bad_request
from serving.http.auth import Caller, Gate
from serving.http.bodies import aware, decode_body, only
from serving.http.documents import documented
from serving.router import Router

log = structlog.get_logger(__name__)


class KeyInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be issued; `advertiser_id` for role advertiser alone."""

    role: Role
    label: str
    advertiser_id: str = ""
    expires_at: datetime | None = None


class RotateInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the old key goes on working beside the new one."""

    overlap_s: int = 3_600


_KEY = msgspec.json.Decoder(KeyInput)
_ROTATE = msgspec.json.Decoder(RotateInput)


def key_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Handlers of keys."""
    accounts = router.accounts

    @post("/v1/keys", status_code=201, opt=documented(KeyInput, answer="The key with its secret, shown once."))
    async def create_key(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Issue an API key."""
        await gate.caller(request, Role.ADMIN)
        given = decode_body(await request.body(), _KEY)
        now, expires_at = datetime.now(UTC), aware("expires_at", given.expires_at)
        if expires_at is not None and not now < expires_at < now + timedelta(days=36_500):
            raise bad_request("expires_at", expires_at.isoformat(), "give a moment in the future")
        label = clean_title(given.label, "label")
        # As campaigns write it: the same advertiser in another spelling would find none of its campaigns.
        advertiser = clean_title(given.advertiser_id, "advertiser_id") if given.advertiser_id else ""
        issued = await asyncio.to_thread(
            lambda: accounts.issue(given.role, label, now, advertiser_id=advertiser, expires_at=expires_at)
        )
        log.info("key issued", key_id=issued.key.id, role=given.role.value)
        return _json(issued, 201)

    @get("/v1/keys", opt=documented(query={"advertiser_id": "this one's alone"}, answer="Keys without secrets."))
    async def list_keys(request: Request[Any, Any, Any]) -> Response[bytes]:
        """List keys."""
        await gate.caller(request, Role.ADMIN)
        only(request.query_params, {"advertiser_id"})
        keys = await asyncio.to_thread(accounts.keys, request.query_params.get("advertiser_id", ""))
        return _json({"items": keys})

    @post(
        "/v1/keys/{key_id:str}/rotate",
        status_code=201,
        opt=documented(RotateInput, answer="A new key with its secret; the old one ends after the overlap."),
    )
    async def rotate_key(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[bytes]:
        """Replace a key."""
        _own_or_admin(await gate.caller(request, *Role), key_id)
        body = await request.body()
        overlap = (decode_body(body, _ROTATE) if body.strip() else RotateInput()).overlap_s
        longest = int(LONGEST_OVERLAP.total_seconds())
        if not 0 <= overlap <= longest:
            raise bad_request("overlap_s", overlap, f"give seconds from 0 to {longest}")
        issued = await _there(key_id, accounts.rotate, key_id, timedelta(seconds=overlap), datetime.now(UTC))
        log.info("key rotated", key_id=key_id, new=issued.key.id)
        return _json(issued, 201)

    @post("/v1/keys/{key_id:str}/revoke", status_code=200, opt=documented(answer="The key, ended."))
    async def revoke_key(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[bytes]:
        """End a key at once and for good."""
        _own_or_admin(await gate.caller(request, *Role), key_id)
        revoked = await _there(key_id, accounts.revoke, key_id, datetime.now(UTC))
        log.info("key revoked", key_id=key_id)
        return _json(revoked)

    return [create_key, list_keys, rotate_key, revoke_key]


def _own_or_admin(caller: Caller, key_id: str) -> None:
    """Somebody else's key is not there for whom it does not belong to."""
    if not caller.is_admin and caller.key_id != key_id:
        raise ApiError(404, f"key: {key_id[:64]!r}: there is no such key", "key", "not_found")


async def _there(key_id: str, work: Any, *arguments: Any) -> Any:
    try:
        return await asyncio.to_thread(work, *arguments)
    except InputError as error:
        if error.place != "key":
            raise
        raise ApiError(404, str(error), "key", "not_found") from error


def _json(value: Any, status: int = 200) -> Response[bytes]:
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)
