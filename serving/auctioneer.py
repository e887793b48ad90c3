"""Holds one auction per request: candidates, one generation, visible answer, audit record.

The policy's own text is the allocation. When the ad side fails before a reader has seen anything, the same question is
answered without candidates; HTTP is left to `serving.chat`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import structlog

from mechanism.errors import InputError, PolicyError
from mechanism.stream import MarkerStream
from mechanism.types import Context
from serving.audit import AuctionRecord, AuditTrail, CandidateRecord, MarkerRecord, ShownRecord, new_auction_id
from serving.catalogue import Listing
from serving.errors import Overloaded, PolicyTimeout
from serving.policy import Completed, TextDelta
from serving.retrieval import Retrieved, Retriever
from serving.schema import ChatRequest
from serving.settings import ServeSettings
from serving.tokens import Click, TokenSigner
from serving.visible import SponsoredLink, VisibleAnswer, VisibleDelta
from serving.worker import Answering, PolicyWorker

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Auctioneer:
    """Everything that an auction needs; `model` is the served model's public name."""

    model: str
    retriever: Retriever
    worker: PolicyWorker
    signer: TokenSigner
    audit: AuditTrail
    settings: ServeSettings

    async def open(self, request: ChatRequest, base_url: str) -> LiveAnswer:
        """Starts an answer and returns once it can be delivered: whole for a plain request, with its first
        characters for a streamed one. Raises what stopped it, after trying without ads where that can help."""
        candidates = await self._candidates(request)
        try:
            return await self._start(request, candidates, base_url, generations=1)
        except (Overloaded, PolicyTimeout):
            raise  # without candidates it would go no better
        except (InputError, PolicyError) as error:  # an InputError may be a prompt that is too long with its offers
            if not candidates:
                raise
            log.warning("answering without ads", reason=type(error).__name__)
            return await self._start(request, (), base_url, generations=2)

    async def _start(
        self, request: ChatRequest, candidates: tuple[Retrieved, ...], base_url: str, generations: int
    ) -> LiveAnswer:
        live = LiveAnswer(self, request, candidates, base_url, generations)
        try:
            await live.prefetch(whole=not request.stream)
        except BaseException:
            live.cancel()
            raise
        return live

    async def _candidates(self, request: ChatRequest) -> tuple[Retrieved, ...]:
        if not request.ads.enabled or request.ads.max_ads == 0:
            return ()
        profile = request.ads.known_profile()
        interests = profile.interests if profile else ()
        find = partial(self.retriever.candidates, request.query(), interests, self.settings.candidates)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, find)
        except Exception as error:
            # Its message may quote the question: only the type is logged. The user still gets an answer.
            log.error("retrieval failed, answering without ads", reason=type(error).__name__)
            return ()


class LiveAnswer:
    """One answer on its way to a reader."""

    def __init__(
        self, room: Auctioneer, request: ChatRequest, candidates: tuple[Retrieved, ...], base_url: str, generations: int
    ) -> None:
        self.auction_id = new_auction_id()
        self.created = int(time.time())
        self.finish_reason = "stop"
        self.tokens = 0
        self.prompt_tokens = 0
        self._room = room
        self._base_url = base_url.rstrip("/")
        self._candidates = candidates
        self._generations = generations
        self._seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
        self._listings = {c.listing.ad.id: c.listing for c in candidates}
        bidders = tuple(c.listing.candidate() for c in candidates)
        self._context = Context(self.auction_id, request.query(), bidders, request.ads.known_profile(), request.turns())
        max_ads = self._max_ads(request)
        self._visible = VisibleAnswer(self._listings.__getitem__, self._click_url, max_ads)
        self._began = time.monotonic()
        self._answering: Answering = room.worker.submit(self._context, self._seed, max_ads)
        self._source = self._deltas()
        self._ready: list[VisibleDelta] = []

    @property
    def ads(self) -> list[SponsoredLink]:
        """The sponsored links shown so far."""
        return self._visible.ads

    async def deltas(self) -> AsyncIterator[VisibleDelta]:
        """What a reader sees, piece by piece; leaving early cancels the generation."""
        try:
            for delta in self._ready:
                yield delta
            async for delta in self._source:
                yield delta
        finally:
            self.cancel()

    async def prefetch(self, whole: bool) -> None:
        """Waits for the first characters, or for the `whole` answer, so that failures can still become a status."""
        async for delta in self._source:
            self._ready.append(delta)
            if not whole:
                return

    def cancel(self) -> None:
        """Stops the generation."""
        self._answering.cancel()

    async def _deltas(self) -> AsyncIterator[VisibleDelta]:
        markers = MarkerStream([c.listing.ad for c in self._candidates])
        async for event in self._answering.events():
            if isinstance(event, TextDelta):
                for delta in self._visible.add(markers.feed(event.text)):
                    yield delta
                continue
            for delta in [*self._visible.add(markers.finish()), *self._visible.finish()]:
                yield delta
            self._close(event, [fault.kind for fault in markers.answer().faults])

    def _close(self, done: Completed, faults: list[str]) -> None:
        self.tokens, self.prompt_tokens = done.tokens, done.prompt_tokens
        self.finish_reason = "stop" if done.finished else "length"
        record = AuctionRecord(
            auction_id=self.auction_id,
            created=self.created,
            model=self._room.model,
            model_digest=self._room.worker.backend.digest,
            seed=self._seed,
            currency=next((x.currency for x in self._listings.values()), ""),
            profile_used=self._context.profile is not None,
            generations=self._generations,
            candidates=[_candidate_record(c) for c in self._candidates],
            markers=[MarkerRecord(c.chosen, c.exact, dict(c.probabilities)) for c in done.choices],
            shown=[ShownRecord(a.ad_id, self._click(self._listings[a.ad_id]).id, a.bid_micros) for a in self.ads],
            left_out=self._visible.left_out,
            faults=faults,
            logprob=done.logprob,
            tokens=done.tokens,
            seconds=round(time.monotonic() - self._began, 3),
        )
        self._room.audit.add(record)
        log.info(
            "answered",
            auction_id=record.auction_id,
            candidates=len(record.candidates),
            shown=len(record.shown),
            faults=len(faults),
            tokens=record.tokens,
            seconds=record.seconds,
        )

    def _max_ads(self, request: ChatRequest) -> int:
        limit = self._room.settings.max_ads
        return limit if request.ads.max_ads is None else min(limit, request.ads.max_ads)

    def _click(self, listing: Listing) -> Click:
        expires = self.created + self._room.settings.link_lifetime_s
        return Click(self.auction_id, listing.ad.id, listing.bid, listing.currency, expires)

    def _click_url(self, listing: Listing) -> str:
        return f"{self._base_url}/c/{self._room.signer.sign(self._click(listing))}"


def _candidate_record(found: Retrieved) -> CandidateRecord:
    ad = found.listing.ad
    return CandidateRecord(ad.id, ad.title, ad.advertiser, ad.category, found.listing.bid, round(found.relevance, 4))
