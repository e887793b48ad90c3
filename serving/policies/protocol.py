"""What writes the answers: the backend behind a small protocol, and the in-process implementation.

A backend streams raw text in the marker format and ends with what the audit needs. Turning markers into links,
queueing and deadlines are left to others (`serving.answering.rendering`, `serving.policies.worker`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mechanism.errors import InputError
from mechanism.types import Context, MarkerChoice
from serving.policies.weights import checked_digest, file_sha256

if TYPE_CHECKING:
    from inference.policy import Policy
    from serving.metrics import Metrics


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of raw text, markers not yet told apart."""

    text: str


@dataclass(frozen=True, slots=True)
class Completed:
    """The end of an answer: the distribution at every marker, the answer's log-probability in nats, its length in
    tokens and the prompt's, and whether the policy ended it by itself (False: cut at the length limit). `digest` names
    the weights that wrote it where a backend may change them while it serves; empty: the backend's own."""

    choices: tuple[MarkerChoice, ...]
    logprob: float
    tokens: int
    prompt_tokens: int
    finished: bool = True
    digest: str = ""


PolicyEvent = TextDelta | Completed


class PolicyBackend(Protocol):
    """A policy pi_theta. `stream` yields deltas and, last, one `Completed`; closing it stops the generation.

    `max_ads` bounds the insertions of the answer. It raises PolicyError where no answer can be made, InputError where
    the context itself cannot be answered. It is called from one thread at a time.
    """

    @property
    def digest(self) -> str:
        """Names the weights exactly."""
        ...

    def stream(self, context: Context, seed: int, max_ads: int) -> Iterator[PolicyEvent]: ...


class PolicyVersion(Protocol):
    """One version of a policy, as one answer uses it. Any number of answers at once; none may block the event loop."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest that identifies the weights of the next answer."""
        ...

    @abstractmethod
    def stream(self, context: Context, seed: int, max_ads: int, deadline: float) -> AsyncGenerator[PolicyEvent, None]:
        """Yield deltas and, last, one `Completed`; closing it (`aclose`) at any time stops the generation.

        `deadline` is a time on the running loop's clock (`loop.time()`). Raises Overloaded before any event where the
        queue is full, PolicyTimeout at the deadline, PolicyError where no answer can be made, InputError where the
        context itself cannot be answered.
        """
        ...


class AsyncPolicyBackend(PolicyVersion, Protocol):
    """A policy as the router uses it: one version, or several that share the traffic.

    Backends subclass it: `serving.policies.threaded.ThreadedPolicy` (in this process),
    `serving.policies.triton.client.TritonPolicy`, `serving.policies.openai.policy.UpstreamPolicy`, and
    `serving.policies.versioned.RoutedPolicy` (the versions of a route file). What only the last one needs has a default.
    """

    @property
    @abstractmethod
    def breaker_open(self) -> bool:
        """Whether a circuit breaker currently holds requests back from a policy server."""
        ...

    def lease(self, key: str) -> AbstractContextManager[PolicyVersion]:
        """Keep the version that answers `key` (a user, a conversation or an auction) loaded for the `with` block."""
        return nullcontext(self)

    async def start(self, metrics: Metrics) -> None:
        """Load and check what the backend serves; figures go to `metrics`."""
        return None

    async def refresh(self) -> None:
        """Follow changes of what is served; the router calls it every `ServeSettings.routes_s` seconds."""
        return None

    @abstractmethod
    async def ready(self) -> bool:
        """Whether an answer could begin now; never raises."""
        ...

    @abstractmethod
    async def close(self) -> None:
        """Stop the answers under way and release what the backend holds."""
        ...


class InProcessPolicy:
    """A policy of `inference` in this process."""

    def __init__(self, policy: Policy, digest: str) -> None:
        self._policy = policy
        self.digest = digest

    @classmethod
    def load(cls, name_or_path: str, digest: str = "") -> InProcessPolicy:
        """Loads a model by its name or folder; its digest is that of the files, unless it is known. Imports torch.

        Raises PolicyError, and InputError where a registered model's files are no longer those that were registered.
        """
        from inference.models import resolve
        from inference.policy import Policy

        where, gguf = resolve(name_or_path)
        if not digest and gguf:
            digest = file_sha256(Path(where) / gguf)
        elif not digest and Path(where).is_dir():
            digest = checked_digest(Path(where))
        policy = Policy.load(name_or_path)
        return cls(policy, digest or policy.digest)

    def stream(self, context: Context, seed: int, max_ads: int) -> Iterator[PolicyEvent]:
        """One constrained generation for the context, reproducible by its seed."""
        settings = self._policy.with_sampling(max_ads=max_ads)
        prompt_tokens = self._fitting(context, settings.max_new_tokens)
        deltas = self._policy.stream(context, seed, settings)
        try:
            while True:
                yield TextDelta(next(deltas))
        except StopIteration as end:
            done = end.value
        finally:
            deltas.close()
        yield Completed(done.choices, done.logprob, len(done.token_ids), prompt_tokens, done.finished)

    def _fitting(self, context: Context, room: int) -> int:
        """Tokens of the prompt; past the model's positions it would write noise, so that is refused."""
        tokens = len(self._policy.prompt_ids(context))
        limit = self._policy.model.config.max_position_embeddings
        if tokens + room > limit:
            remedy = f"shorten them: this model reads {limit - room}, its offers included"
            raise InputError("messages", f"{tokens} tokens", remedy)
        return tokens
