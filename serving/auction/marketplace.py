"""What one router knows of all campaigns, in memory: the indexes, pacing, frequency, rates, and their refreshing.

Everything that a request asks is answered here without the database; a background task brings its changes every second
or so. Belongs to the event loop; the database and the encoder are asked on threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import structlog

from mechanism.errors import InputError
from serving.auction.eligibility import EligibilityIndex, Evaluation, PlacementRequest
from serving.auction.encoding import QueryEncoder, Vectors
from serving.auction.frequency import FrequencyCounter
from serving.auction.offers import Offer, offer_of
from serving.auction.pacing import PacingState, next_state
from serving.auction.rates import ClickRates, counted
from serving.auction.retrieval import CreativeIndex, prompt_candidates
from serving.auction.retrieval.index import creative_text
from serving.auction.separation import Loss
from serving.campaigns.snapshots import Snapshot, changes_since, snapshot
from serving.campaigns.types import Campaign, CampaignState, Pricing
from serving.database.engine import Database
from serving.settings import ServeSettings

log = structlog.get_logger(__name__)

FILED = 4
"""Campaigns that are filed before others get the loop again: a millisecond or two with ten creatives each."""
SLICE = 64
"""The same for the cheaper steps: spends, pacing, and campaigns whose creatives are encoded at once."""
FILLED_AT_START = 2_000
"""Creatives that a start waits for the vectors of; a larger catalogue gets them while it serves."""
KEPT_AFTER_END = timedelta(hours=1)
DEEPER = 2
"""Retrieval goes deeper than the prompt, so that separation leaves it full."""


class Marketplace:
    """The live campaigns of one database. `width` is the encoder's, 0 without one."""

    def __init__(
        self, database: Database, encoder: QueryEncoder | None, width: int, key: bytes, settings: ServeSettings
    ) -> None:
        self.index = EligibilityIndex()
        self.frequency = FrequencyCounter(key)
        self.rates = ClickRates(settings.prior_ctr, settings.prior_shown)
        self.synced_at = 0.0
        self._database = database
        self._encoder = encoder
        self._settings = settings
        self._creatives = CreativeIndex(width if encoder else 0)
        self._cursor = 0
        self._pacing: dict[str, PacingState] = {}
        self._refreshing = asyncio.Lock()
        self._unfilled: list[str] = []
        self._filling: asyncio.Task[None] | None = None

    def evaluate(self, request: PlacementRequest) -> Evaluation:
        """Who is eligible for a request, frequency caps included."""
        now = request.now.timestamp()
        capped = self.frequency.capped(request.user_id, request.consent, now, self.index.get)
        return self.index.evaluate(request, capped)

    async def vector(self, text: str) -> Vectors | None:
        """The question's vector, where there is an encoder and it is in time."""
        return None if self._encoder is None else await self._encoder.vector(text, self._settings.encode_s)

    def offers(
        self, query: str, vector: Vectors | None, evaluation: Evaluation
    ) -> tuple[tuple[Offer, ...], tuple[Loss, ...]]:
        """The candidates of one prompt: the best-fitting eligible ones that may stand together, in a stable order; and
        what fits as well and may not stand beside them."""
        count = self._settings.candidates
        found = self._creatives.search(query, vector, evaluation, DEEPER * count)
        chosen, apart = prompt_candidates(found, count)
        return tuple(offer_of(one) for one in chosen), apart

    def participation(self, campaign_id: str) -> float:
        """In which share of the auctions that it fits the campaign takes part now."""
        return self.index.participation(campaign_id)

    async def load(self) -> None:
        """Takes over all live campaigns. Raises the database's error."""
        now = datetime.now(UTC)
        await self._apply(await asyncio.to_thread(snapshot, self._database, now), now)
        await self._read_rates()
        if len(self._unfilled) <= FILLED_AT_START:
            await self._fill()
        else:
            self._filling = asyncio.create_task(self._fill())

    async def refresh(self) -> None:
        """Brings what changed since the last look. Raises the database's error, and keeps what it has."""
        async with self._refreshing:
            now = datetime.now(UTC)
            await self._apply(await asyncio.to_thread(changes_since, self._database, self._cursor, now), now)
            if self._unfilled and (self._filling is None or self._filling.done()):
                await self._fill()

    async def pace(self) -> None:
        """The minute's work: participation by the latest spend, click rates, and forgetting what is over."""
        now = datetime.now(UTC)
        for number, campaign in enumerate(list(self.index), start=1):
            ended = campaign.ends_at is not None and campaign.ends_at + KEPT_AFTER_END < now
            if ended:
                self._forget(campaign)
            else:
                self._pace(campaign, now)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        await self._read_rates()

    async def _apply(self, news: Snapshot, now: datetime) -> None:
        for number, campaign in enumerate(news.campaigns, start=1):
            if campaign.state is CampaignState.ENDED:
                self._forget(campaign)
            else:
                self._put(campaign, now)
            if number % FILED == 0:
                await asyncio.sleep(0)
        for number, spend in enumerate(news.spends, start=1):
            self.index.set_spend(spend)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        self._cursor, self.synced_at = news.cursor, time.monotonic()

    def _put(self, campaign: Campaign, now: datetime) -> None:
        known = self.index.get(campaign.id)
        if known is not None and known.version >= campaign.version:
            return
        if known is not None:
            self._creatives.remove(self.index.rows_of(campaign.id))
        try:
            self.index.put(campaign)
        except InputError as error:
            # The API refuses such campaigns; one that was written around it must not keep the others from serving.
            log.error("campaign left out", campaign_id=campaign.id, place=error.place)
            return
        self._creatives.put(self.index.rows_of(campaign.id), campaign.creatives)
        self._pace(campaign, now)
        if self._encoder is not None and campaign.creatives:
            self._unfilled.append(campaign.id)

    def _forget(self, campaign: Campaign) -> None:
        if self.index.get(campaign.id) is not None:
            self._creatives.remove(self.index.rows_of(campaign.id))
            self.index.remove(campaign.id)
        self._pacing.pop(campaign.id, None)

    def _pace(self, campaign: Campaign, now: datetime) -> None:
        state = next_state(self._pacing.get(campaign.id), campaign, self.index.spend(campaign.id), now)
        self._pacing[campaign.id] = state
        self.index.set_participation(campaign.id, state.participation)

    async def _fill(self) -> None:
        """Encodes the creatives that have no vector yet; a campaign that changed meanwhile comes again."""
        assert self._encoder is not None or not self._unfilled, "nothing waits for an encoder that is not there"
        while self._unfilled and self._encoder is not None:
            ids, self._unfilled = self._unfilled[:SLICE], self._unfilled[SLICE:]
            chosen = [campaign for campaign in map(self.index.get, ids) if campaign is not None]
            texts = [creative_text(creative) for campaign in chosen for creative in campaign.creatives]
            vectors = await self._encoder.vectors(texts) if texts else None
            if vectors is None:
                continue
            self._file(chosen, vectors)
        index = self._creatives.vectors
        if index is not None and (fitting := index.fitting()) is not None:
            await asyncio.to_thread(fitting.run)
            index.take(fitting)

    def _file(self, campaigns: Sequence[Campaign], vectors: Vectors) -> None:
        at = 0
        assert self._creatives.vectors is not None, "there is an encoder"
        for campaign in campaigns:
            own, at = vectors[at : at + len(campaign.creatives)], at + len(campaign.creatives)
            if self.index.get(campaign.id) is campaign:
                for row, vector in zip(self.index.rows_of(campaign.id), own, strict=True):
                    self._creatives.vectors.put(row, vector)

    async def _read_rates(self) -> None:
        if any(campaign.pricing is not Pricing.CLICK for campaign in self.index):
            self.rates = self.rates.updated(await asyncio.to_thread(counted, self._database))
