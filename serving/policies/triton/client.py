"""A policy served by Triton, as the router's backend: one shared gRPC client, deadlines, safe retries, a breaker.

A request is sent again only while nothing of its answer has arrived and only when the connection failed: what a model
answered, an error included, stands. The digest of the weights is compared before the first request and again after
every failed connection, since another server may stand behind the address then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from tritonclient.grpc import InferInput  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc.aio import InferenceServerClient  # type: ignore[import-untyped, unused-ignore]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped, unused-ignore]

from mechanism.errors import AuctionError, ConfigError, PolicyError
from mechanism.types import Context
from serving import tracing
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.breaker import Breaker, BreakerSettings, GuardedCalls, ServerDown
from serving.policies.protocol import AsyncPolicyBackend, Completed, PolicyEvent, TextDelta
from serving.policies.triton.wire import (
    COMPLETED,
    DIGEST_PARAMETER,
    REQUEST,
    TEXT,
    QueueFull,
    decode_completed,
    decode_error,
    encode_request,
)

CHANNEL_OPTIONS = [
    # a name that stands for several servers (a headless Service): each gets its part of the questions
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.max_receive_message_length", 2**24),
    # a server that comes back is found at once, not after gRPC's two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on Triton and the digest that its weights must have; as `repository.BuiltModel` names them."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class TritonSettings:
    """How often a request is sent again after a failed connection, the pause before (doubled each time), the limit of
    a question about the model itself, and the silence that counts as a failure of the server; seconds. A request whose
    own deadline is shorter than that silence says nothing about the server."""

    retries: int = 2
    pause_s: float = 0.05
    question_s: float = 5.0
    silence_s: float = 2.0
    breaker: BreakerSettings = field(default_factory=BreakerSettings)

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError("triton.retries", self.retries, "give a whole number >= 0")
        if self.pause_s < 0 or self.question_s <= 0:
            raise ConfigError("triton.pause_s, question_s", (self.pause_s, self.question_s), "give seconds above 0")
        if self.silence_s < 0:
            raise ConfigError("triton.silence_s", self.silence_s, "give seconds >= 0")


def connect(url: str) -> Any:
    """The gRPC client of a Triton at `host:port`: make one for the process, on its event loop, and close it at the end
    (each client that is dropped costs memory). Does not wait for the server."""
    return InferenceServerClient(url, channel_args=CHANNEL_OPTIONS)


class TritonPolicy(AsyncPolicyBackend):
    """One model on Triton as an `AsyncPolicyBackend`. The client is shared and stays open on `close`, unless it was
    made for this model alone (`own_client`)."""

    def __init__(
        self, client: Any, model: ModelRef, settings: TritonSettings = TritonSettings(), own_client: bool = False
    ) -> None:
        self._own_client = own_client
        self.model = model
        self._calls = GuardedCalls(f"Triton ({model.name})", settings.breaker, settings.silence_s)
        self._client = client
        self._settings = settings
        self._verified = False

    @property
    def digest(self) -> str:
        """sha256 of the weights, as `serving.policies.weights` folds it."""
        return self.model.digest

    @property
    def breaker(self) -> Breaker:
        """Whether Triton is asked at the moment."""
        return self._calls.breaker

    @property
    def breaker_open(self) -> bool:
        """Whether requests are held back from Triton."""
        return not self.breaker.closed

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float
    ) -> AsyncGenerator[PolicyEvent, None]:
        """As `AsyncPolicyBackend.stream`; ServerDown, a PolicyError, while Triton cannot be reached."""
        loop = asyncio.get_running_loop()
        data = encode_request(context, seed, max_ads)
        for attempt in range(1 + self._settings.retries):
            began = False
            try:
                async with aclosing(self._guarded(data, deadline)) as events:
                    async for event in events:
                        began = True
                        yield event
                return
            except ServerDown:
                pause = self._settings.pause_s * 2**attempt
                last = attempt == self._settings.retries or loop.time() + pause >= deadline
                if began or last or not self.breaker.closed:
                    raise
                await asyncio.sleep(pause)

    async def verify(self, within_s: float = math.inf) -> None:
        """Raises PolicyError where the model is not served, or other weights are than were asked for."""
        seconds = min(within_s, self._settings.question_s)
        try:
            answer = await self._client.get_model_config(self.model.name, client_timeout=seconds)
        except InferenceServerException as error:
            raise _status_error(error.status(), error.message(), self.model.name) from None
        found = answer.config.parameters[DIGEST_PARAMETER].string_value
        if found != self.model.digest:
            raise PolicyError(
                f"Triton serves {self.model.name} with weights {found[:12] or 'of no digest'}, not "
                f"{self.model.digest[:12]}: load the model that was built from these weights"
            )
        self._verified = True

    async def ready(self) -> bool:
        """Whether Triton serves the model with the right weights; asks it."""
        try:
            if not await self._client.is_model_ready(self.model.name, client_timeout=self._settings.question_s):
                return False
            await self.verify()
        except (InferenceServerException, PolicyError):
            return False
        return True

    async def close(self) -> None:
        """Closes a client of its own; no stream is held, each ends with its reader."""
        if self._own_client:
            await self._client.close()

    async def _guarded(self, data: bytes, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        """One attempt, and what it tells the breaker."""
        clock = asyncio.get_running_loop().time
        told = {"model": self.model.name, "model_digest": self.model.digest}
        with self._calls.call(clock, deadline) as works, tracing.Call("triton", **told) as traced:
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
        """The events of one request as Triton sends them; leaving early cancels it there. The trace goes with the
        stream, for Triton's own spans, and with the request, for the model's log.

        The end of the answer, or its failure, is passed on when the stream has ended too: a cancellation that meets
        the end of a stream can bring Triton down (server#8034). For that reason Triton is not asked for gRPC statuses
        in streams either (header triton_grpc_error): the kinds of our own errors are in their messages.
        """
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        request = _once(self.model.name, data, trace)
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
            # gRPC says it this way when the client itself is closed under a reader who was not cancelled
            raise PolicyError("the connection to Triton was closed in this process") from None
        except grpc.aio.AioRpcError as error:
            raise _status_error(error.code(), error.details() or "", self.model.name) from None
        finally:
            call.cancel()
        if isinstance(end, AuctionError):
            raise end
        if end.digest != self.model.digest:
            self._verified = False
            raise PolicyError(f"other weights than {self.model.digest[:12]} wrote the answer: see what Triton serves")
        yield end


async def _once(model: str, data: bytes, trace: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
    """The request side of the stream: one request, then no more."""
    tensor = InferInput(REQUEST, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([data], dtype=np.object_))
    yield {"model_name": model, "inputs": [tensor], "parameters": dict(trace)}


def _status_error(status: Any, message: str, model: str) -> AuctionError:
    """The project's error for a failed call. What Triton itself wrote may quote the request: it is not passed on."""
    told = decode_error(message)
    if isinstance(told, QueueFull):
        return Overloaded(str(told))
    if told is not None:
        return told
    code = status if isinstance(status, grpc.StatusCode) else _named(status)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PolicyTimeout("the policy passed its deadline")
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServerDown("Triton cannot be reached, or is going down: see that it runs at the address given")
    if code is grpc.StatusCode.NOT_FOUND:
        return PolicyError(f"Triton has no model {model}: load it, see `llm-auction triton serve`")
    return PolicyError(f"Triton could not answer for {model} ({code.name if code else 'it gave no code'}): see its log")


def _named(status: object) -> grpc.StatusCode | None:
    """tritonclient gives a status as text, "StatusCode.UNAVAILABLE"."""
    name = str(status).rpartition(".")[2]
    return grpc.StatusCode[name] if name in grpc.StatusCode.__members__ else None
