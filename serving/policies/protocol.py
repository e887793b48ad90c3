"""The policy protocols: what writes answers, as a thread calls it and as the router's event loop does.

A policy streams raw text in the marker format and ends with the figures that the audit needs. Turning markers into
links is `serving.answering.rendering`'s.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mechanism.errors import PolicyError
from mechanism.types import Context, MarkerChoice

if TYPE_CHECKING:
    from serving.metrics import Metrics


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of raw text, markers included; `count` deltas of a model server that arrived together."""

    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Completed:
    """The end of an answer.

    `choices`: the distribution at every marker. `logprob`: the answer's log-probability in nats. `finished`: the policy
    ended the answer itself; False if it was cut at the length limit. `digest` names the weights that wrote it, if the
    backend may change them while it serves; empty: the backend's own.
    """

    choices: tuple[MarkerChoice, ...]
    logprob: float
    tokens: int
    prompt_tokens: int
    finished: bool = True
    digest: str = ""


PolicyEvent = TextDelta | Completed


class AdapterAbsent(PolicyError):
    """The server does not have the version's adapter, or not yet; another server of the same base may have it."""


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """What one request asks of its answer's generation; None is the policy's own setting.

    At most `max_tokens` tokens, sampled at `temperature`; never more tokens than the policy's own maximum.
    """

    max_tokens: int | None = None
    temperature: float | None = None


OWN_LIMITS = AnswerLimits()
"""A request that leaves both to the policy."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """An answer of the policy's server that is passed on as it is: its content type, and its bytes as they arrive."""

    media_type: str
    chunks: AsyncGenerator[bytes, None]


class Relay(Protocol):
    """A policy server that takes OpenAI's whole chat completion: tools, images, JSON and several choices."""

    async def relay(self, body: Mapping[str, object], deadline: float) -> Relayed:
        """Send the request under the server's own model name; the answer's bytes are passed on without a change.

        Raises InputError where the server refuses the request, Overloaded, PolicyTimeout and PolicyError as `stream`.
        """
        ...


class PolicyBackend(Protocol):
    """A policy pi_theta as the thread that owns it calls it; never from two threads at a time."""

    @property
    def digest(self) -> str:
        """Digest that identifies the weights."""
        ...

    def stream(
        self, context: Context, seed: int, max_ads: int, limits: AnswerLimits = OWN_LIMITS
    ) -> Generator[PolicyEvent, None, None]:
        """Yield deltas and, last, one `Completed`; closing the generator stops the generation.

        `max_ads` bounds the insertions of the answer. Raises PolicyError if no answer can be made, InputError if the
        context itself cannot be answered.
        """
        ...


class PolicyVersion(Protocol):
    """One version of a policy, as one answer uses it. Any number of answers at once; none may block the event loop."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest that identifies the weights of the next answer."""
        ...

    @property
    def revision(self) -> str:
        """What tells it apart where other servers of the same weights have other settings (`route_file`)."""
        return ""

    @abstractmethod
    def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float, limits: AnswerLimits = OWN_LIMITS
    ) -> AsyncGenerator[PolicyEvent, None]:
        """Yield deltas and, last, one `Completed`; closing it (`aclose`) at any time stops the generation.

        `deadline` is a time on the running loop's clock (`loop.time()`). Raises Overloaded before any event where the
        queue is full, PolicyTimeout at the deadline, PolicyError where no answer can be made, InputError where the
        context itself cannot be answered.
        """
        ...


class AsyncPolicyBackend(PolicyVersion, Protocol):
    """A policy as the router uses it: one version, or several that share the traffic.

    Backends subclass it: `in_process.ThreadedPolicy`, `triton.client.TritonPolicy`, `openai.policy.UpstreamPolicy` and
    `versioned.RoutedPolicy` (the versions of a route file). Methods that only the last one needs have a default.
    """

    @property
    @abstractmethod
    def breaker_open(self) -> bool:
        """Whether a circuit breaker currently holds requests back from a policy server."""
        ...

    def lease(self, key: str) -> AbstractContextManager[PolicyVersion]:
        """Keep the version that answers `key` (a user, a conversation or an auction) loaded for the `with` block."""
        return nullcontext(self)

    @property
    def relay_server(self) -> Relay | None:
        """The server that takes requests which this policy cannot answer with ads; None where there is none."""
        return None

    async def start(self, metrics: Metrics) -> None:
        """Load and check what the backend serves; figures go to `metrics`."""
        return None

    async def refresh(self) -> None:
        """Follow changes of what is served; the router calls it every `ServeSettings.routes_s` seconds."""
        return None

    @abstractmethod
    async def ready(self) -> bool:
        """Return whether an answer could begin now; never raises."""
        ...

    @abstractmethod
    async def close(self) -> None:
        """Stop the answers under way and release what the backend holds."""
        ...
