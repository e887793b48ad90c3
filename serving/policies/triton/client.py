"""A policy on Triton as the router's backend: one gRPC client, deadlines, safe retries, a circuit breaker.

The digest of the weights is compared before the first request and again after every failed connection, because another
server may answer at the address by then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from tritonclient.grpc import InferInput  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc.aio import InferenceServerClient  # type: ignore[import-untyped, unused-ignore]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped, unused-ignore]

from mechanism.errors import AuctionError, PolicyError
from mechanism.types import Context
from serving import tracing
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.breaker import Breaker
from serving.policies.calls import CallSettings, ServerCalls, ServerDown
from serving.policies.protocol import (
    OWN_LIMITS,
    AdapterAbsent,
    AnswerLimits,
    AsyncPolicyBackend,
    Completed,
    PolicyEvent,
    TextDelta,
)
from serving.policies.triton.wire import (
    COMPLETED,
    DIGEST_PARAMETER,
    REQUEST,
    TEXT,
    QueueFull,
    decode_completed,
    decode_error,
    encode_request,
    model_name,
)

CHANNEL_OPTIONS = [
    # a name that resolves to several servers (a headless Service): each gets its share of the questions
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_receive_message_length", 2**24),
    # find a server that is back at once, not after gRPC's two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on Triton and the digest that its weights must have; as `repository.BuiltModel` names them.

    `adapter` is the digest of an adapter on that model, if the version is one.
    """

    name: str
    digest: str
    adapter: str = ""

    @property
    def version(self) -> str:
        """Digest of the weights that write its answers."""
        return self.adapter or self.digest


def connect(url: str) -> Any:
    """Return a gRPC client of the Triton at `host:port`, without waiting for the server.

    Make one per process and server, on its event loop, and close it: a client that is dropped leaks memory.
    """
    return InferenceServerClient(url, channel_args=CHANNEL_OPTIONS)


def connect_policy(url: str, digest: str, name: str = "", base: str = "") -> TritonPolicy:
    """Return the policy with these weights on the Triton at `host:port`, over a client of its own.

    `name` is the model's name there if it is not the one that `build_repository` gives; `base` the digest of the model
    there if the weights are an adapter on it.
    """
    model = ModelRef(model_name(base), base, digest) if base else ModelRef(name or model_name(digest), digest)
    return TritonPolicy(connect(url), model, own_client=True)


class TritonPolicy(AsyncPolicyBackend):
    """One model on Triton. `close` closes the client only if it is the policy's own (`own_client`)."""

    def __init__(
        self, client: Any, model: ModelRef, settings: CallSettings | None = None, own_client: bool = False
    ) -> None:
        self.model = model
        self._client = client
        self._own_client = own_client
        self._calls = ServerCalls(f"Triton ({model.name})", settings or CallSettings())
        self._verified = False

    @property
    def digest(self) -> str:
        """Digest of the weights, as `mechanism.weights` computes it."""
        return self.model.version

    @property
    def breaker(self) -> Breaker:
        """State of Triton's circuit breaker."""
        return self._calls.breaker

    @property
    def breaker_open(self) -> bool:
        """Whether requests are held back from Triton."""
        return not self.breaker.closed

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float, limits: AnswerLimits = OWN_LIMITS
    ) -> AsyncGenerator[PolicyEvent, None]:
        """See `AsyncPolicyBackend.stream`; ServerDown, a PolicyError, while Triton cannot be reached."""
        data = encode_request(context, seed, max_ads, limits, self.model.adapter)
        events, first = await self._calls.begin(lambda: self._attempt(data, deadline), deadline)
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    async def verify(self, within_s: float = math.inf) -> None:
        """Compare the digest of the model that Triton serves with the expected one.

        A failed call, for example because the model is not loaded, raises the error of `_status_error`.

        Raises:
            PolicyError: if Triton serves other weights.
        """
        seconds = min(within_s, self._calls.settings.probe_s)
        try:
            answer = await self._client.get_model_config(self.model.name, client_timeout=seconds)
        except InferenceServerException as error:
            failure = _status_error(error.status(), error.message(), self.model.name)
            raise failure from None
        found = answer.config.parameters[DIGEST_PARAMETER].string_value
        if found != self.model.digest:
            raise PolicyError(
                f"Triton serves {self.model.name} with weights {found[:12] or 'of no digest'}, not "
                f"{self.model.digest[:12]}: load the model that was built from these weights"
            )
        self._verified = True

    async def ready(self) -> bool:
        """Ask Triton whether it serves the model with the right weights."""
        try:
            if not await self._client.is_model_ready(self.model.name, client_timeout=self._calls.settings.probe_s):
                return False
            await self.verify()
        except (InferenceServerException, PolicyError):
            return False
        return True

    async def close(self) -> None:
        """Close the policy's own client; a shared one belongs to its maker."""
        if self._own_client:
            await self._client.close()

    async def _attempt(self, data: bytes, deadline: float) -> tuple[AsyncGenerator[PolicyEvent, None], PolicyEvent]:
        """Send the request; return its events and the first of them."""
        events = self._guarded(data, deadline)
        try:
            return events, await anext(events)
        except BaseException:
            await events.aclose()
            raise

    async def _guarded(self, data: bytes, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        """Yield the events of one request, traced, and record its end in the breaker.

        Raises:
            ServerDown: if the connection failed; the weights are then verified again.
        """
        clock = asyncio.get_running_loop().time
        attributes = {"model": self.model.name, "model_digest": self.model.version}
        with self._calls.guarded(clock, deadline) as works, tracing.Call("triton", **attributes) as traced:
            try:
                if not self._verified:
                    await self.verify(deadline - clock())
                async with aclosing(self._events(data, deadline, traced.headers)) as events:
                    async for event in events:
                        works()
                        yield event
            except ServerDown:
                self._verified = False
                raise

    async def _events(
        self, data: bytes, deadline: float, trace: Mapping[str, str]
    ) -> AsyncGenerator[PolicyEvent, None]:
        """Yield the events of one request as Triton sends them; leaving early cancels it there.

        The trace goes with the stream, for Triton's own spans, and with the request, for the model's log.

        The last event or error is passed on when the stream has ended too: a cancellation that meets the end of a
        stream can crash Triton (server#8034). For the same reason Triton is not asked for gRPC statuses in streams
        (header triton_grpc_error): the kinds of our own errors are in their messages.

        Errors of the model arrive as it raised them, failed calls as `_status_error` makes them.

        Raises:
            PolicyError: if the connection is closed in this process, the stream ends early, or other weights wrote the
                answer.
            CancelledError: if the reader is cancelled.
        """
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        request = _single_request(self.model.name, data, trace)
        call = self._client.stream_infer(request, stream_timeout=left, headers=dict(trace) or None)
        end: Completed | AuctionError = PolicyError("Triton ended the stream before the answer was complete")
        try:
            async for result, error in call:
                if error is not None:
                    end = _status_error(None, error.message(), self.model.name)
                    continue
                text, completed = result.as_numpy(TEXT), result.as_numpy(COMPLETED)
                if completed is not None and completed[0]:
                    end = decode_completed(completed[0])
                if text is not None and text[0]:
                    yield TextDelta(text[0].decode())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # gRPC raises this when the client itself is closed under a reader who was not cancelled
            raise PolicyError("the connection to Triton was closed in this process") from None
        except grpc.aio.AioRpcError as error:
            failure = _status_error(error.code(), error.details() or "", self.model.name)
            raise failure from None
        finally:
            call.cancel()
        if isinstance(end, AuctionError):
            raise end
        if end.digest != self.model.version:
            self._verified = False
            raise PolicyError(f"other weights than {self.model.version[:12]} wrote the answer: see what Triton serves")
        yield end


async def _single_request(model: str, data: bytes, trace: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
    """Yield the request side of the stream: one request."""
    tensor = InferInput(REQUEST, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
    yield {"model_name": model, "inputs": [tensor], "parameters": dict(trace)}


def _status_error(status: Any, message: str, model: str) -> AuctionError:
    """Return the project's error for a failed call. Triton's own message may quote the request and is not passed on."""
    decoded = decode_error(message)
    if isinstance(decoded, QueueFull):
        return Overloaded(str(decoded))
    if isinstance(decoded, AdapterAbsent):
        return ServerDown(str(decoded))  # another server of the name may have it, so the request is sent again
    if decoded is not None:
        return decoded
    code = status if isinstance(status, grpc.StatusCode) else _status_code(status)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PolicyTimeout("the policy passed its deadline")
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServerDown("Triton cannot be reached, or is going down: see that it runs at the address given")
    if code is grpc.StatusCode.NOT_FOUND:
        return PolicyError(f"Triton has no model {model}: load it, see `llm-auction triton serve`")
    return PolicyError(f"Triton could not answer for {model} ({code.name if code else 'without a code'}): see its log")


def _status_code(status: object) -> grpc.StatusCode | None:
    """Return the status that tritonclient gives as text, "StatusCode.UNAVAILABLE"."""
    name = str(status).rpartition(".")[2]
    return grpc.StatusCode[name] if name in grpc.StatusCode.__members__ else None
