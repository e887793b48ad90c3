"""The policy on vLLM behind the same interface: continuous batching on GPUs, in Triton's python backend.

Build with `--kind vllm` and serve with the Triton container that includes vLLM. Written to the documentation of vLLM
0.15 to 0.22 (0.32 documents another model runner; VLLM_USE_V2_MODEL_RUNNER=0 selects this one) and not yet run: the
tests have no GPU and no vLLM. They cover `vllm_marks`, which masks and records, and the interface through the other
kind. A seed reproduces an answer only for one vLLM build and batch.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mechanism.errors import AuctionError, InputError, PolicyError
from serving.policies.protocol import Completed, TextDelta
from serving.policies.triton import backend
from serving.policies.triton.scheduler import Reply
from serving.policies.triton.vllm_marks import Record, UnloadedPolicies
from serving.policies.triton.wire import ADAPTERS, PolicyRequest, QueueFull, encode_request

if TYPE_CHECKING:
    from inference.policy import Policy

T = TypeVar("T")
PROCESSOR = "serving.policies.triton.vllm_processor:MarkerProcessor"
ARGUMENT = "llm_auction"
MAX_ADAPTERS, MAX_RANK = 4, 64
"""Adapters in one batch, and the largest rank of one: vLLM reserves memory for as many."""
MAX_CANDIDATES = 64
"""Log-probabilities that the engine reports for a token, which bounds the fan-out of the trie."""


class TritonPythonModel(backend.TritonPythonModel):
    """A model instance whose engine is vLLM."""

    def engine(self) -> backend.Engine:
        """Start vLLM; `slots` bounds its batch."""
        slots, waiting = int(self.parameters["slots"]), int(self.parameters["waiting"])
        return VllmEngine(self.weights, slots, waiting, self.report)


class VllmEngine:
    """vLLM's asynchronous engine on an event loop in a thread of its own; as `Scheduler`."""

    def __init__(self, weights: Path, slots: int, waiting: int, report: Callable[[str], None]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs  # type: ignore[import-not-found, unused-ignore]
        from vllm.v1.engine.async_llm import AsyncLLM  # type: ignore[import-not-found, unused-ignore]

        self._policies = UnloadedPolicies(weights)
        self._numbers_of: dict[str, int] = {}
        self._report = report
        self._limit = slots + waiting
        self._open = 0
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        arguments = AsyncEngineArgs(
            model=str(weights),
            max_num_seqs=slots,
            max_logprobs=MAX_CANDIDATES,
            logprobs_mode="processed_logprobs",
            logits_processors=[PROCESSOR],
            # the constraint needs each token before the next one is sampled
            async_scheduling=False,
            enable_prefix_caching=True,
            enable_lora=(weights.parent / ADAPTERS).is_dir(),
            max_loras=MAX_ADAPTERS,
            max_lora_rank=MAX_RANK,
        )
        self._engine: Any = self._on_loop(_start(AsyncLLM, arguments)).result()

    def submit(self, request: PolicyRequest, reply: Reply) -> None:
        """Queue an answer and return at once.

        Raises:
            InputError: if the request has too many candidates.
            QueueFull: if slots and queue are full.
        """
        if len(request.context.candidates) >= MAX_CANDIDATES:
            raise InputError("candidates", len(request.context.candidates), f"give fewer than {MAX_CANDIDATES}")
        with self._lock:
            if self._open >= self._limit:
                raise QueueFull(f"{self._open} answers are being written or wait: try again later")
            self._open += 1
        self._on_loop(self._answer(request, reply))

    def close(self) -> None:
        """Stop vLLM's processes and the thread."""
        self._engine.shutdown()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _answer(self, request: PolicyRequest, reply: Reply) -> None:
        try:
            await self._write(request, reply)
        except AuctionError as error:
            reply.failed(error)
        except Exception as error:
            self._report(type(error).__name__)
            reply.failed(PolicyError("the policy failed: the server's log names the kind of failure"))
        finally:
            with self._lock:
                self._open -= 1

    async def _write(self, request: PolicyRequest, reply: Reply) -> None:
        adapter = request.adapter or ""
        policy, context = await asyncio.to_thread(self._policies.of, adapter), request.context
        record = Record(policy.vocabulary, context, request.max_ads)
        prompt = policy.prompt_ids(context)
        stream = self._engine.generate(
            {"prompt_token_ids": prompt},
            self._sampling(policy, request, len(prompt)),
            f"answer-{next(self._numbers)}",
            lora_request=self._lora(adapter),
        )
        try:
            async for output in stream:
                if reply.cancelled():
                    reply.dropped()
                    return
                part = output.outputs[0]
                for token, likely in zip(part.token_ids, part.logprobs, strict=True):
                    record.take(token, {other: found.logprob for other, found in likely.items()})
                if text := record.text(last=output.finished):
                    reply.event(TextDelta(text))
        finally:
            await stream.aclose()  # stops a generation that has not ended
        done = Completed(record.choices, record.logprob, len(record.tokens), len(prompt), record.finished, adapter)
        reply.event(done)

    def _lora(self, adapter: str) -> Any:
        """Return vLLM's name for an adapter: it loads the weights of a number that it does not know."""
        if not adapter:
            return None
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found, unused-ignore]

        number = self._numbers_of.setdefault(adapter, len(self._numbers_of) + 1)
        return LoRARequest(adapter[:12], number, str(self._policies.place(adapter)))

    def _sampling(self, policy: Policy, request: PolicyRequest, prompt_tokens: int) -> Any:
        from vllm import SamplingParams  # type: ignore[import-not-found, unused-ignore]
        from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found, unused-ignore]

        settings = policy.sampling
        limit = policy.model.config.max_position_embeddings - settings.max_new_tokens
        if prompt_tokens > limit:
            raise InputError("messages", f"{prompt_tokens} tokens", f"shorten them: this model reads {limit}")
        limits, own = request.limits, settings.max_new_tokens
        return SamplingParams(
            temperature=settings.temperature if limits.temperature is None else limits.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k or -1,
            max_tokens=own if limits.max_tokens is None else min(limits.max_tokens, own),
            seed=request.seed,
            logprobs=len(request.context.candidates) + 1,
            stop_token_ids=list(policy.end_tokens),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={
                ARGUMENT: encode_request(
                    request.context, request.seed, request.max_ads, adapter=request.adapter or ""
                ).decode()
            },
        )


async def _start(engine: Any, arguments: Any) -> Any:
    """Construct the engine on the event loop that will run it."""
    return engine.from_engine_args(arguments)
