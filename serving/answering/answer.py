"""Write one answer: candidates, one generation, visible pieces; and the fallbacks when a step fails.

The policy's own text is the allocation. When the ad side fails before the reader has seen anything, the question is
answered without candidates; at the deadline, the text written so far is the answer. Recording and billing are left to
`serving.answering.finalise`, HTTP to `serving.http.answers`.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from mechanism.errors import AuctionError, InputError, PolicyError
from mechanism.stream import MarkerStream
from mechanism.types import AdId, Answer, Context, Micros
from mechanism.weights import served_version
from serving import tracing
from serving.accounts.publishers import PlacementDirectory
from serving.answering.auction_records import AnswerOutcome, EvaluationSummary
from serving.answering.delivery import Delivery
from serving.answering.rendering import DeltaQueue, VisibleAnswer, VisibleDelta
from serving.answering.result import AnswerRequest, AnswerResult
from serving.answering.scan import AnswerScan
from serving.answering.stop import StopSequences
from serving.auction.eligibility import PlacementRequest
from serving.auction.frequency import has_caps
from serving.auction.marketplace import Marketplace
from serving.auction.offers import Offer
from serving.auction.relevance import BELOW_FLOOR
from serving.auction.retrieval import query_text
from serving.auction.retrieval.vectors import Vectors
from serving.auction.sensitive import SensitiveGate, Sensitivity, Verdict, help_text
from serving.auction.separation import Displaced
from serving.campaigns.screening import is_planted
from serving.clicks.tokens import ClickLinks, TokenSigner
from serving.errors import ClientGone, Overloaded, PolicyTimeout
from serving.metrics import Metrics
from serving.policies.protocol import AsyncPolicyBackend, Completed, PolicyVersion, TextDelta
from serving.settings import ServeSettings
from streaming.pseudonyms import pseudonym

log = structlog.get_logger(__name__)

UNDERSTOOD = 4
"""The reader's newest messages whose meaning is read, not their words alone."""
GRACE_S = 1.0
"""How long after the deadline a backend may still end the answer itself."""
READER_DIGITS = 16
"""Digits of the reader's hash in a link: enough to distinguish the readers of one ad within minutes."""
LONGEST_VERSION = 32
"""Longest model version that is put into a link; a longer one is in the auction record only."""


@dataclass(slots=True)
class RouterContext:
    """What all answers of a router share.

    `reader_key` makes the hashes of readers in links, `ad_load` is the factor on the bids that the policy sees.
    `paused` is the code why no answer has ads now, empty otherwise.
    """

    model: str
    marketplace: Marketplace
    backend: AsyncPolicyBackend
    signer: TokenSigner
    metrics: Metrics
    settings: ServeSettings
    gate: SensitiveGate
    placements: PlacementDirectory
    reader_key: bytes = field(repr=False)
    ad_load: float = 1.0
    paused: str = ""


async def write_answer(request: AnswerRequest, context: RouterContext, deltas: DeltaQueue) -> AnswerResult:
    """Write an answer into the queue; the policy version stays loaded until it has ended.

    A cancellation and a failed policy are results as well, not exceptions.
    """
    try:
        with context.backend.lease(request.version_key) as policy:
            return await _AnswerWriter(request, context, policy, deltas).run()
    finally:
        deltas.close()


@dataclass(frozen=True, slots=True)
class RunningAnswer:
    """An answer that is being written: its text so far in `deltas`, its end as the result of `task`.

    The task that sends it reports to `delivery`, its end included.
    """

    request: AnswerRequest
    deltas: DeltaQueue
    task: asyncio.Task[AnswerResult]
    delivery: Delivery

    async def result(self) -> AnswerResult:
        """Wait for the end of the answer; raises its error if it failed or was cancelled."""
        if not self.task.done():
            await asyncio.wait((self.task,))  # `await self.task` would cancel the task together with its waiter
        result = self.task.result()
        if result.error is not None:
            raise result.error
        return result


class _AnswerWriter:
    """The state of an answer while it is written.

    No attribute refers back to the writer: a reference cycle would leave the answer to the garbage collector, whose
    pauses delay all streams.
    """

    def __init__(
        self, request: AnswerRequest, context: RouterContext, policy: PolicyVersion, deltas: DeltaQueue
    ) -> None:
        self._request = request
        self._context = context
        self._policy = policy
        self._deltas = deltas
        self._digest = policy.digest
        settings, tmax_ms = context.settings, request.ads.tmax_ms
        tmax_s = settings.deadline_s if tmax_ms is None else min(settings.deadline_s, tmax_ms / 1000)
        self._deadline = request.arrived + tmax_s - min(settings.reserve_s, tmax_s / 2)
        version = served_version(self._digest, policy.revision)
        self._links = ClickLinks(
            context.signer,
            request.base_url,
            request.auction_id,
            request.created,
            settings.link_lifetime_s,
            request.ads.placement,
            version if len(version) <= LONGEST_VERSION else "",
            pseudonym(request.ads.user_id if request.ads.consent else "", context.reader_key)[:READER_DIGITS],
        )
        self._currency = settings.currency
        self._floor: Micros = 0
        self._evaluation: EvaluationSummary | None = None
        self._offers: dict[AdId, Offer] = {}
        self._apart: tuple[Displaced, ...] = ()
        self._verdict = Verdict()
        self._withheld = ""
        self._reserved_caps = False
        self._visible = VisibleAnswer(self._offers, self._links.url, request.max_ads)
        self._parsed = Answer("", "")
        self._completed: Completed | None = None
        self._written = 0
        self._stops = StopSequences(request.question.stop)
        self._generations = 0
        self._overhead_s = 0.0
        self._first_token_s: float | None = None
        self._leading_blanks: list[VisibleDelta] = []
        self._last_deltas: list[VisibleDelta] = []

    async def run(self) -> AnswerResult:
        """Write the answer into the queue and return how it ended."""
        outcome, error = AnswerOutcome.FAILED, await self._failure()
        if error is None:
            outcome = AnswerOutcome.ANSWERED
        elif isinstance(error, PolicyTimeout) and self._has_begun:
            self._show(self._last_deltas)
            outcome, error = AnswerOutcome.CUT, None
        elif isinstance(error, ClientGone):
            outcome = AnswerOutcome.CANCELLED
        if error is None:
            self._show_help()
        if error is not None and not self._request.question.request.stream:
            # Only the reader of a stream has seen the text before the error: otherwise no ad was shown or is billed.
            self._visible = VisibleAnswer({}, self._links.url, 1)
        elif error is None and not self._request.question.request.stream:
            self._deltas.put(self._visible.relink(self._deltas.take_ready()))
        return AnswerResult(
            request=self._request,
            outcome=outcome,
            model=self._context.model,
            digest=self._digest,
            revision=self._policy.revision,
            currency=self._currency,
            floor=self._floor,
            evaluation=self._evaluation,
            offers=self._offers,
            apart=self._apart,
            parsed=self._parsed,
            ads=tuple(self._visible.ads),
            left_out=tuple(self._visible.left_out),
            completed=self._completed,
            written=self._written,
            stopped=self._stops.reached,
            generations=self._generations,
            withheld=self._withheld,
            overhead_s=self._overhead_s,
            first_token_s=self._first_token_s,
            seconds=self._elapsed(),
            error=error,
            reserved_caps=self._reserved_caps,
        )

    async def _failure(self) -> Exception | None:
        """Write the answer; return the error that ended it, None for an answer that is complete."""
        try:
            async with asyncio.timeout_at(self._deadline + GRACE_S):
                with tracing.span("auction", auction_id=self._request.auction_id):
                    await self._answer()
        except asyncio.CancelledError:
            return ClientGone("the client closed the connection")
        except TimeoutError:
            return PolicyTimeout("the policy did not stop at its deadline")
        except AuctionError as error:
            return error
        except Exception as error:
            # Its message may quote the question: only the type is logged.
            log.error("answer.failed", auction_id=self._request.auction_id, reason=type(error).__name__)
            return PolicyError("the answer failed")
        return None

    @property
    def _has_begun(self) -> bool:
        """Whether a reader of a stream has seen text."""
        return self._first_token_s is not None

    def _elapsed(self) -> float:
        """Return the seconds since the request arrived."""
        return asyncio.get_running_loop().time() - self._request.arrived

    async def _answer(self) -> None:
        offers = await self._find_offers()
        try:
            await self._generate(offers)
        except (Overloaded, PolicyTimeout):
            raise  # an answer without candidates would meet the same limit
        except (InputError, PolicyError) as error:  # an InputError may be a prompt that is too long with its offers
            if not offers or (self._has_begun and self._request.question.request.stream):
                raise
            log.warning("answer.retry_without_ads", auction_id=self._request.auction_id, reason=type(error).__name__)
            self._context.metrics.fallbacks.inc()
            self._deltas.clear()
            self._first_token_s = None
            self._leading_blanks = []
            self._offers, self._apart = {}, ()
            await self._generate(())

    async def _find_offers(self) -> tuple[Offer, ...]:
        """Return the candidates: none where no ads are wanted or belong, or where the search for them fails."""
        request, market = self._request, self._context.marketplace
        try:
            with tracing.span("sensitive"):
                vectors = await self._read()
                self._verdict = self._judge(vectors)
            self._withheld = self._verdict.code or request.withheld or self._context.paused
            if self._withheld or not request.ads.enabled or request.max_ads == 0:
                return ()
            question = request.question
            if question.profile and question.profile.interests:
                vectors[-1] = await market.vector(query_text(question.asked[-1], question.profile.interests))
            with tracing.span("eligibility"):
                placement = self._placement()
                self._currency, self._floor = placement.currency, placement.floor_micros
                evaluation = await market.evaluate(placement)
                self._evaluation = EvaluationSummary.of(evaluation)
            if not len(evaluation):
                return ()
            # Nothing may be awaited before the search: an evaluation is valid until the index changes.
            with tracing.span("retrieval", eligible=len(evaluation)):
                found, self._apart = market.offers(question.recent, vectors, evaluation)
        except Exception as error:
            log.error("answer.no_candidates", auction_id=request.auction_id, reason=type(error).__name__)
            return ()
        offers = tuple(offer for offer in found if not is_planted(offer.creative))
        self._reserved_caps = any(has_caps(offer.campaign) for offer in offers)
        offers = await market.within_caps(placement, offers)
        self._withheld = "" if found else BELOW_FLOOR
        self._offers = {offer.ad.id: offer for offer in offers}
        return offers

    async def _read(self) -> list[Vectors | None]:
        """Return the vectors of the reader's newest messages, None where one is not ready in time."""
        recent = self._request.question.asked[-UNDERSTOOD:]
        return list(await asyncio.gather(*(self._context.marketplace.vector(text) for text in recent)))

    def _judge(self, vectors: list[Vectors | None]) -> Verdict:
        """Judge the conversation; a message without a vector is judged by its words alone."""
        asked, ads = self._request.question.asked, self._request.ads
        unread: list[Vectors | None] = [None] * (len(asked) - len(vectors))
        return self._context.gate.judge(asked, [*unread, *vectors], Sensitivity(tuple(ads.blocked_terms), ads.strict))

    def _show_help(self) -> None:
        """End an answer on an acute topic with help lines, where the publisher asks for them."""
        ads, topic = self._request.ads, self._verdict.topic
        if ads.help_lines and topic is not None and self._verdict.is_acute:
            self._show([VisibleDelta("\n\n" + help_text(topic, ads.country, self._request.question.asked[-1]))])

    def _placement(self) -> PlacementRequest:
        request, ads = self._request, self._request.ads
        currency = ads.currency or self._context.settings.currency
        floors = self._context.placements.floors(ads.placement)
        return PlacementRequest(
            auction_id=request.auction_id,
            now=request.received_at,
            currency=currency,
            country=ads.country,
            language=ads.language,
            category=ads.category,
            placement=ads.placement,
            query=request.question.recent,
            user_id=(ads.user_id or None) if ads.consent else None,
            consent=ads.consent,
            publisher_blocked_categories=frozenset(ads.blocked_categories),
            publisher_blocked_advertisers=frozenset(ads.blocked_advertisers),
            user_blocked_categories=frozenset(ads.user_blocked_categories),
            user_blocked_advertisers=frozenset(ads.user_blocked_advertisers),
            floor_micros=max(ads.floor_micros, floors.get(currency, 0)),
            floor_missing=bool(floors) and currency not in floors,
            max_ads=request.max_ads,
            tmax_ms=ads.tmax_ms,
        )

    async def _generate(self, offers: tuple[Offer, ...]) -> None:
        """Run one generation into the queue.

        Raises:
            PolicyTimeout: if the deadline has passed before it begins.
            PolicyError: if the policy ends without a `Completed`, or writes nothing that can be shown.
        """
        request = self._request
        self._generations += 1
        self._parsed = Answer("", "")
        # Without offers there is no link to count, and no sentence to hold back for one.
        self._visible = VisibleAnswer(self._offers, self._links.url, request.max_ads if offers else 1)
        self._completed = None
        self._written = 0
        stops = self._stops = StopSequences(request.question.stop)
        context = self._policy_context(offers)
        if self._generations == 1:
            self._overhead_s = self._elapsed()
            self._context.metrics.overhead.observe(self._overhead_s)
        if asyncio.get_running_loop().time() >= self._deadline:
            raise PolicyTimeout("the deadline has passed before the policy was called")
        markers = MarkerStream(offer.ad for offer in offers)
        scan = AnswerScan(self._offers, "\n".join(request.question.asked))
        with tracing.span("policy", candidates=len(offers), generation=self._generations):
            most = request.max_ads if offers else 0
            events = self._policy.stream(context, request.seed, most, self._deadline, request.limits)
            try:
                async with aclosing(events):
                    async for event in events:
                        if isinstance(event, TextDelta):
                            self._written += event.count
                            pieces = markers.feed(stops.feed(event.text))
                            self._show(self._visible.add(scan.feed(pieces) if offers else pieces))
                            if stops.reached:
                                break
                        else:
                            self._completed = event
            finally:
                # At the deadline and after a cancellation, too: the text decided by now is the answer.
                pieces = [*markers.feed(stops.finish()), *markers.finish()]
                pieces = [*scan.feed(pieces), *scan.finish()] if offers else pieces
                self._last_deltas = [*self._visible.add(pieces), *self._visible.finish()]
                for kind, count in scan.edits.items():
                    self._context.metrics.edits.labels(kind).inc(count)
                self._parsed = markers.answer()
        if self._completed is None and not stops.reached:
            raise PolicyError("the policy ended the answer without completing it")
        self._digest = (self._completed and self._completed.digest) or self._policy.digest
        self._show(self._last_deltas)
        if not self._has_begun and not stops.reached:
            raise PolicyError("the policy wrote no text that can be shown")

    def _policy_context(self, offers: tuple[Offer, ...]) -> Context:
        """Return what the policy reads: the question, and the candidates with the bids that it is to see."""
        question, request = self._request.question, self._request
        bidders = tuple(offer.candidate() for offer in offers)
        context = Context(request.auction_id, question.query, bidders, question.profile, question.turns)
        return context.with_bids({offer.ad.id: request.shown_bid(offer) for offer in offers})

    def _show(self, deltas: list[VisibleDelta]) -> None:
        if not deltas:
            return
        if not self._has_begun:
            if all(not delta.content.strip() for delta in deltas):
                self._leading_blanks += deltas  # blanks alone are no answer: they wait for the first word
                return
            deltas = [*self._leading_blanks, *deltas]
            self._first_token_s = self._elapsed()
            self._context.metrics.first_token.observe(self._first_token_s)
        self._deltas.put(deltas)
