"""`/v1/chat/completions` and its neighbours: OpenAI's wire format around an answer of the auctioneer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import structlog
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from serving.auctioneer import Auctioneer, LiveAnswer
from serving.errors import ApiError, as_api_error, sse_error
from serving.schema import ChatRequest, parse_chat_request
from serving.visible import SponsoredLink, VisibleDelta

log = structlog.get_logger(__name__)

CLIENT_CLOSED_REQUEST = 499
_SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def chat_routes(auctioneer: Auctioneer, public_url: str) -> list[HTTPRouteHandler]:
    """Handlers for completions, the model list and auction records."""

    @post("/v1/chat/completions", status_code=200)
    async def completions(request: Request[Any, Any, Any]) -> Response[Any]:
        chat = parse_chat_request(await request.body(), auctioneer.model, auctioneer.settings)
        base_url = public_url or str(request.base_url)
        live = await _unless_gone(request, auctioneer, chat, base_url)
        if chat.stream:
            return Stream(_events(live, auctioneer.model, chat), media_type="text/event-stream", headers=_SSE_HEADERS)
        return Response(await _completion(live, auctioneer.model), headers={"Cache-Control": "no-store"})

    @get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_card(auctioneer)]}

    @get("/v1/models/{model:path}")
    async def one_model(request: Request[Any, Any, Any]) -> dict[str, Any]:
        if str(request.path_params["model"]).lstrip("/") != auctioneer.model:
            raise ApiError(404, f"model: this server serves {auctioneer.model!r} alone", "model", "model_not_found")
        return _model_card(auctioneer)

    @get("/v1/auctions/{auction_id:str}")
    async def auction(request: Request[Any, Any, Any]) -> Response[bytes]:
        auction_id = str(request.path_params["auction_id"])
        record = auctioneer.audit.get(auction_id)
        if record is None:
            message = f"auction_id: {auction_id[:64]!r}: only the newest {auctioneer.settings.audited_answers} are kept"
            raise ApiError(404, message, "auction_id", "auction_not_found")
        return Response(msgspec.json.encode(record), media_type="application/json")

    return [completions, models, one_model, auction]


def _model_card(auctioneer: Auctioneer) -> dict[str, Any]:
    return {"id": auctioneer.model, "object": "model", "created": 0, "owned_by": "llm-auction"}


async def _unless_gone(
    request: Request[Any, Any, Any], auctioneer: Auctioneer, chat: ChatRequest, base_url: str
) -> LiveAnswer:
    """Opens the answer; a client that hangs up meanwhile cancels it, queued or running."""
    opening = asyncio.ensure_future(auctioneer.open(chat, base_url))
    gone = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({opening, gone}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            return opening.result()
        log.info("client left before its answer")
        raise ApiError(CLIENT_CLOSED_REQUEST, "the client closed the connection")
    finally:
        gone.cancel()
        opening.cancel()
        await asyncio.gather(opening, gone, return_exceptions=True)


async def _disconnection(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _completion(live: LiveAnswer, model: str) -> dict[str, Any]:
    """A `chat.completion` with the extra objects `ads` and `auction`."""
    content = "".join([delta.content async for delta in live.deltas()])
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": live.finish_reason}
    frame = _frame(live, model, "chat.completion")
    return frame | {"choices": [choice], "usage": _usage(live)} | _extras(live)


async def _events(live: LiveAnswer, model: str, chat: ChatRequest) -> AsyncIterator[bytes]:
    """Server-sent `chat.completion.chunk` events. A chunk that is a sponsored link has it as `ad`; the last chunk
    before `[DONE]` carries all `ads` and the `auction`."""
    frame = _frame(live, model, "chat.completion.chunk")
    usage_wanted = chat.stream_options is not None and chat.stream_options.include_usage
    try:
        yield _event(frame | _choice({"role": "assistant", "content": ""}))
        async for delta in live.deltas():
            yield _event(frame | _choice({"content": delta.content}) | _ad(delta))
        yield _event(frame | _choice({}, live.finish_reason) | _extras(live))
        if usage_wanted:
            yield _event(frame | {"choices": [], "usage": _usage(live)} | _extras(live))
    except Exception as error:
        if as_api_error(error).status == 500:
            log.error("stream failed", auction_id=live.auction_id, reason=type(error).__name__)
        yield sse_error(error)
    else:
        yield b"data: [DONE]\n\n"
    finally:
        live.cancel()


def _frame(live: LiveAnswer, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{live.auction_id}", "object": kind, "created": live.created, "model": model}


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}


def _ad(delta: VisibleDelta) -> dict[str, SponsoredLink]:
    return {} if delta.ad is None else {"ad": delta.ad}


def _extras(live: LiveAnswer) -> dict[str, Any]:
    return {"ads": live.ads, "auction": {"auction_id": live.auction_id}}


def _usage(live: LiveAnswer) -> dict[str, int]:
    total = live.prompt_tokens + live.tokens
    return {"prompt_tokens": live.prompt_tokens, "completion_tokens": live.tokens, "total_tokens": total}


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
