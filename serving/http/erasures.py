"""`/v1/erasures`: an administrator erases a reader's data from the lake, and reads who erased how much and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from serving.accounts.keys import Role
from serving.erasure import Selection, erase
from serving.errors import ApiError
from serving.http.auth import Gate
from serving.http.bodies import HttpRequest, decode_body, json_response
from serving.http.documents import documented
from serving.router import Router

if TYPE_CHECKING:
    from streaming.lake.store import Lake

log = structlog.get_logger(__name__)
T = TypeVar("T")
_SELECTION = msgspec.json.Decoder(Selection)


def erasure_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of `/v1/erasures`."""
    settings = router.settings
    retention = timedelta(days=settings.retention_days)

    async def on_lake(work: Callable[[Lake], T]) -> T:
        """Run `work` on a thread.

        Raises:
            ApiError: 404 if this router knows no lake, 503 if the lake cannot be read or changed now.
        """
        if not settings.lake:
            raise ApiError(
                404,
                "lake: this router knows no lake: start it with `--lake`, or LLM_AUCTION_LAKE in its environment",
                "lake",
                "no_lake",
            )
        # imported here: a router without erasures needs no query engine
        from streaming.lake.store import Lake, LakeDamaged, LakeUnavailable

        try:
            return await asyncio.to_thread(work, Lake(settings.lake))
        except (LakeUnavailable, LakeDamaged) as error:
            log.error("erasure.failed", reason=str(error)[:300])
            message = "the lake does not answer, or another program changes it: try again; what was done stays done"
            raise ApiError(503, message, code="lake_unavailable") from error

    @post(
        "/v1/erasures",
        status_code=200,
        opt=documented(Selection, answer="How many answers were erased, and when their data have left every copy."),
    )
    async def erase_readers(request: HttpRequest) -> Response[bytes]:
        """Erase the questions, profiles and texts of a user, of one answer, or of all answers past an age."""
        caller = await gate.caller(request, Role.ADMIN)
        selection = decode_body(await request.body(), _SELECTION)
        who = f"key {caller.key_id}"
        done = await on_lake(lambda lake: erase(lake, selection, lambda: router.secrets, who, retention))
        if selection.user_id is not None:
            await asyncio.to_thread(router.marketplace.frequency.forget, selection.user_id)
        log.info("readers.erased", key_id=caller.key_id, answers=done.answers)
        return json_response(done)

    @get("/v1/erasures", opt=documented(answer="All erasures, oldest first: when, who, how and how many; never whose."))
    async def list_erasures(request: HttpRequest) -> Response[bytes]:
        """List erasures."""
        await gate.caller(request, Role.ADMIN)

        def read(lake: Lake) -> list[dict[str, Any]]:
            from streaming.lake.erasures import read_audit

            return read_audit(lake)

        return json_response({"items": await on_lake(read)})

    return [erase_readers, list_erasures]
