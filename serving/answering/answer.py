"""One answer on its way to a reader: candidates, one generation, visible pieces; and what is left when something fails.

The policy's own text is the allocation. When the ad side fails before a reader has seen anything, the same question is
answered without candidates; when time is up, what is written so far is the answer. HTTP is `serving.http.chat`'s,
records and charges are `serving.answering.finalise`'s.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from mechanism.errors import AuctionError, InputError, PolicyError
from mechanism.stream import MarkerStream
from mechanism.types import Answer, Context
from mechanism.weights import model_version
from serving import tracing
from serving.answering.auction_records import EvaluationSummary, new_auction_id
from serving.answering.question import Question
from serving.answering.rendering import SponsoredLink, VisibleAnswer, VisibleDelta
from serving.auction.eligibility import PlacementRequest
from serving.auction.marketplace import Marketplace
from serving.auction.offers import Offer
from serving.auction.retrieval import query_text
from serving.auction.separation import Displaced
from serving.clicks.tokens import ClickLinks, TokenSigner
from serving.errors import ClientGone, Overloaded, PolicyTimeout
from serving.metrics import Metrics
from serving.policies.protocol import AsyncPolicyBackend, Completed, TextDelta
from serving.policies.versioned import RoutedPolicy, ServedVersion
from serving.settings import ServeSettings

log = structlog.get_logger(__name__)

GRACE_S = 1.0
"""How much later than its deadline a backend may notice it."""
LONGEST_VERSION = 32


@dataclass(slots=True)
class Room:
    """What all answers of a router share. `load` is the ad load, the factor on the bids that the policy sees."""

    model: str
    marketplace: Marketplace
    backend: AsyncPolicyBackend
    signer: TokenSigner
    metrics: Metrics
    settings: ServeSettings
    load: float = 1.0
    in_flight: int = 0
    answered: int = 0
    shown: int = 0

    def policy_for(self, key: str) -> AsyncPolicyBackend:
        """What answers `key`: a user, a conversation or an auction."""
        return self.backend.version_for(key) if isinstance(self.backend, RoutedPolicy) else self.backend


class Outlet:
    """Pieces between the task that writes and the one that sends: what came meanwhile is taken at once."""

    def __init__(self) -> None:
        self._ready: list[VisibleDelta] = []
        self._error: Exception | None = None
        self._closed = False
        self._waiting: asyncio.Future[None] | None = None

    def put(self, deltas: list[VisibleDelta]) -> None:
        """Adds pieces."""
        self._ready += deltas
        self._wake()

    def clear(self) -> None:
        """Forgets what nobody has taken."""
        self._ready.clear()

    def close(self, error: Exception | None = None) -> None:
        """Says that nothing follows, or that `error` ended it."""
        self._closed, self._error = True, error
        self._wake()

    async def take(self) -> list[VisibleDelta]:
        """The pieces since the last call, waiting for some; empty at the end. Raises the error that ended it."""
        while not self._ready and not self._closed:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        taken, self._ready = self._ready, []
        if not taken and self._error is not None:
            raise self._error
        return taken

    def whole(self) -> list[VisibleDelta]:
        """All pieces of an answer that has ended, for who reads it at once. Raises the error that ended it, also after
        some text: half of an answer that nobody has seen is not one."""
        if self._error is not None:
            raise self._error
        return self._ready

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class LiveAnswer:
    """One answer. `run` writes it, `outlet` has what a reader may see. `arrived` is the loop's time of the request. The
    version that answers is chosen here and held until `release`."""

    def __init__(self, room: Room, question: Question, base_url: str, arrived: float, owner: str = "") -> None:
        self.auction_id = new_auction_id()
        self.now = datetime.now(UTC)
        self.created = int(self.now.timestamp())
        self.owner = owner
        self.question = question
        self.room = room
        self.outlet = Outlet()
        self.outcome = "failed"
        self.placement: PlacementRequest | None = None
        self.evaluated: EvaluationSummary | None = None
        self.offers: dict[str, Offer] = {}
        self.apart: tuple[Displaced, ...] = ()
        self.done: Completed | None = None
        self.parsed = Answer("", "")
        self.first_token_s: float | None = None
        self.generations = 0
        self.seed = secrets.randbits(63) if question.request.seed is None else question.request.seed % 2**63
        self.load = room.load
        self.overhead_s = 0.0
        self.arrived = arrived
        told = question.request.ads
        # Whoever is known by an id stays on the version that they saw, as far as its share allows.
        self.policy = room.policy_for((told.user_id if told.consent else "") or told.conversation_id or self.auction_id)
        if isinstance(self.policy, ServedVersion):
            self.policy.hold()
        self.digest = self.policy.digest
        tmax_ms = question.request.ads.tmax_ms
        tmax_s = room.settings.deadline_s if tmax_ms is None else min(room.settings.deadline_s, tmax_ms / 1000)
        self._deadline = arrived + tmax_s - min(room.settings.reserve_s, tmax_s / 2)
        self._began = False
        self._blank: list[VisibleDelta] = []
        self._rest: list[VisibleDelta] = []
        # Nothing in here refers back to this answer: a cycle would wait, with all it holds, for the garbage collector,
        # whose pauses every stream would feel.
        ads, link_lifetime_s = question.request.ads, room.settings.link_lifetime_s
        self._links = ClickLinks(
            room.signer,
            base_url.rstrip("/"),
            self.auction_id,
            self.created,
            link_lifetime_s,
            ads.placement,
            _short(model_version(self.digest)),
        )
        self._visible = VisibleAnswer(self.offers, self._links.url, self.max_ads)

    @property
    def ads(self) -> list[SponsoredLink]:
        """The sponsored links shown so far."""
        return self._visible.ads

    @property
    def left_out(self) -> list[str]:
        """Ads that the policy wrote past the maximum."""
        return self._visible.left_out

    @property
    def faults(self) -> list[str]:
        """Kinds of broken markers that no reader saw."""
        return [fault.kind for fault in self.parsed.faults]

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for how it ended."""
        return "stop" if self.done is not None and self.done.finished and self.outcome == "answered" else "length"

    @property
    def max_ads(self) -> int:
        """The most links of this answer."""
        wanted, most = self.question.request.ads.max_ads, self.room.settings.max_ads
        return most if wanted is None else min(most, wanted)

    def release(self) -> None:
        """Lets go of the policy; to be called once, when the answer has ended."""
        if isinstance(self.policy, ServedVersion):
            self.policy.release()

    async def run(self) -> None:
        """Writes the answer into the outlet; never raises but when it is cancelled."""
        try:
            async with asyncio.timeout_at(self._deadline + GRACE_S):
                with tracing.span("auction", auction_id=self.auction_id):
                    await self._answer()
            self.outlet.close()
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            self._close(ClientGone("the client left"))
            raise
        except TimeoutError:
            self._cut_or_close(PolicyTimeout("the policy did not even notice its deadline"))
        except AuctionError as error:
            self._cut_or_close(error)
        except Exception as error:
            # Its message may quote the question: only the type is logged.
            log.error("answer failed", auction_id=self.auction_id, reason=type(error).__name__)
            self._close(PolicyError("the answer failed"))

    async def _answer(self) -> None:
        offers = await self._find_offers()
        try:
            await self._generate(offers)
        except (Overloaded, PolicyTimeout):
            raise  # without candidates it would go no better
        except (InputError, PolicyError) as error:  # an InputError may be a prompt that is too long with its offers
            if not offers or (self._began and self.question.request.stream):
                raise
            log.warning("answering without ads", auction_id=self.auction_id, reason=type(error).__name__)
            self.room.metrics.fallbacks.inc()
            self.outlet.clear()
            self._began = False
            self._blank = []
            self.offers, self.apart = {}, ()
            await self._generate(())

    async def _find_offers(self) -> tuple[Offer, ...]:
        """The candidates; none where nobody wants ads, or where finding them fails."""
        ads, market = self.question.request.ads, self.room.marketplace
        if not ads.enabled or self.max_ads == 0:
            return ()
        try:
            with tracing.span("eligibility"):
                self.placement = self._placement()
                evaluation = market.evaluate(self.placement)
                self.evaluated = EvaluationSummary.of(evaluation)
            if not len(evaluation):
                return ()
            with tracing.span("retrieval", eligible=len(evaluation)):
                profile = self.question.profile
                vector = await market.vector(query_text(self.question.query, profile.interests if profile else ()))
                offers, self.apart = market.offers(self.question.query, vector, evaluation)
        except Exception as error:
            log.error("no candidates, answering without ads", auction_id=self.auction_id, reason=type(error).__name__)
            return ()
        self.offers = {offer.ad.id: offer for offer in offers}
        return offers

    def _placement(self) -> PlacementRequest:
        ads = self.question.request.ads
        return PlacementRequest(
            auction_id=self.auction_id,
            now=self.now,
            currency=ads.currency or self.room.settings.currency,
            country=ads.country,
            language=ads.language,
            category=ads.category,
            placement=ads.placement,
            query=self.question.query,
            user_id=(ads.user_id or None) if ads.consent else None,
            consent=ads.consent,
            publisher_blocked_categories=frozenset(ads.blocked_categories),
            publisher_blocked_advertisers=frozenset(ads.blocked_advertisers),
            user_blocked_categories=frozenset(ads.user_blocked_categories),
            user_blocked_advertisers=frozenset(ads.user_blocked_advertisers),
            floor_micros=ads.floor_micros,
            max_ads=self.max_ads,
            tmax_ms=ads.tmax_ms,
        )

    async def _generate(self, offers: tuple[Offer, ...]) -> None:
        """One generation, into the outlet."""
        self.generations += 1
        self.parsed = Answer("", "")
        # Without offers there is no link to count, and no sentence that has to be held back for one.
        self._visible = VisibleAnswer(self.offers, self._links.url, self.max_ads if offers else 1)
        self.done = None
        bidders = tuple(offer.candidate() for offer in offers)
        context = Context(self.auction_id, self.question.query, bidders, self.question.profile, self.question.turns)
        if self.load != 1:
            context = context.with_bids({offer.ad.id: round(offer.bid * self.load) for offer in offers})
        now = asyncio.get_running_loop().time()
        if self.generations == 1:
            self.overhead_s = now - self.arrived
            self.room.metrics.overhead.observe(self.overhead_s)
        if now >= self._deadline:
            raise PolicyTimeout("no time was left for the policy")
        markers = MarkerStream(offer.ad for offer in offers)
        max_ads = self.max_ads if offers else 0
        with tracing.span("policy", candidates=len(offers), generation=self.generations):
            events = self.policy.stream(context, self.seed, max_ads, self._deadline)
            try:
                async with aclosing(events):
                    async for event in events:
                        if isinstance(event, TextDelta):
                            self._show(self._visible.add(markers.feed(event.text)))
                        else:
                            self.done = event
            finally:
                # Also when time is up or the client has gone: what is decided by now is the answer.
                self._rest = [*self._visible.add(markers.finish()), *self._visible.finish()]
                self.parsed = markers.answer()
        if self.done is None:
            raise PolicyError("the policy ended without saying so")
        self.digest = self.done.digest or self.policy.digest
        self._show(self._rest)
        if not self._began:
            raise PolicyError("the policy wrote nothing that can be shown")
        self.outcome = "answered"

    def _show(self, deltas: list[VisibleDelta]) -> None:
        if not deltas:
            return
        if not self._began:
            if all(not delta.content.strip() for delta in deltas):
                self._blank += deltas  # blanks alone are no answer: they wait for a word
                return
            deltas = [*self._blank, *deltas]
            self._began = True
            self.first_token_s = asyncio.get_running_loop().time() - self.arrived
            self.room.metrics.first_token.observe(self.first_token_s)
        self.outlet.put(deltas)

    def _cut_or_close(self, error: AuctionError) -> None:
        """At the deadline what was written is the answer; any other end, or one before the first word, is a failure."""
        if isinstance(error, PolicyTimeout) and self._began:
            self._show(self._rest)
            self.outcome = "cut"
            self.outlet.close()
        else:
            self._close(error)

    def _close(self, error: Exception) -> None:
        """A failed end. Only a stream's reader has seen what was written before it: a whole answer that never came has
        shown no ad, and nobody pays for one."""
        if not self.question.request.stream:
            self._visible = VisibleAnswer({}, self._links.url, 1)
        self.outlet.close(error)


def _short(version: str) -> str:
    """A model version that fits into a link; empty where it does not, and the record of the auction has it."""
    return version if len(version) <= LONGEST_VERSION else ""
