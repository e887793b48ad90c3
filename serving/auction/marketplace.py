"""All campaigns in the memory of one router: the indexes, pacing, frequency counts and click rates, kept up to date.

Requests are answered from here without the database; a background task reads its changes about every second. Belongs to
the event loop; the database and the encoder are called on threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import structlog

from mechanism.errors import InputError
from serving.auction.eligibility import EligibilityIndex, Evaluation, PlacementRequest
from serving.auction.encoding import QueryEncoder
from serving.auction.frequency import FrequencyCounter
from serving.auction.offers import Offer, choose_offers
from serving.auction.pacing import PacingState, next_state
from serving.auction.rates import ClickRates, creative_counts
from serving.auction.relevance import RelevanceFloor
from serving.auction.retrieval import CreativeIndex, creative_text
from serving.auction.retrieval.conversation import conversation_vector
from serving.auction.retrieval.vectors import Vectors
from serving.auction.separation import Displaced
from serving.campaigns.snapshots import Snapshot, changes_since, snapshot
from serving.campaigns.types import Campaign, CampaignState, Pricing
from serving.database.engine import Database
from serving.settings import ServeSettings

log = structlog.get_logger(__name__)

PUTS_PER_TURN = 4
"""Campaigns that are indexed before the loop runs other tasks: a millisecond or two with ten creatives each."""
UPDATES_PER_TURN = 64
"""The same for updates of spend and pacing, which are cheaper."""
ENCODED_TOGETHER = 64
"""Campaigns whose creatives are encoded in one call."""
ENCODED_BEFORE_START = 2_000
"""Creatives whose vectors a start waits for; those of a larger catalogue are encoded while the router serves."""
KEPT_AFTER_END = timedelta(hours=1)
SEARCH_FACTOR = 2
"""Hits per candidate of the prompt, so that the prompt is full after separation."""


class Marketplace:
    """The live campaigns of one database. `width` is that of the encoder's vectors, 0 without an encoder."""

    def __init__(
        self,
        database: Database,
        encoder: QueryEncoder | None,
        width: int,
        key: bytes,
        settings: ServeSettings,
        floor: RelevanceFloor,
    ) -> None:
        self.index = EligibilityIndex()
        self.frequency = FrequencyCounter(key)
        self.rates = ClickRates(settings.prior_ctr, settings.prior_shown)
        self.synced_at = 0.0
        self._database = database
        self._encoder = encoder
        self._settings = settings
        self._floor = floor
        self._creatives = CreativeIndex(width if encoder else 0)
        self._cursor = 0
        self._pacing: dict[str, PacingState] = {}
        self._refreshing = asyncio.Lock()
        self._to_encode: list[str] = []  # ids of campaigns whose creatives have no vectors yet
        self._encoding: asyncio.Task[None] | None = None

    def evaluate(self, request: PlacementRequest) -> Evaluation:
        """Decide which creatives are eligible for a request, frequency caps included."""
        now = request.now.timestamp()
        caps = self.frequency.reached_caps(request.user_id, request.consent, now, self.index.get)
        return self.index.evaluate(request, caps)

    async def vector(self, text: str) -> Vectors | None:
        """Return the question's vector; None without an encoder, or if it is not ready in time."""
        return None if self._encoder is None else await self._encoder.vector(text, self._settings.encode_s)

    def offers(
        self, query: str, vectors: Sequence[Vectors | None], evaluation: Evaluation
    ) -> tuple[tuple[Offer, ...], tuple[Displaced, ...]]:
        """Return the offers of one prompt in a stable order, and the hits that separation displaced.

        `vectors` are those of the reader's last messages, oldest first. None where the conversation has no need, or no
        creative is near enough to it. A need that begins after "hello" is in the newest message alone.
        """
        for vector in (conversation_vector(vectors), vectors[-1] if vectors else None):
            if self._floor.admits(query, vector):
                break
        else:
            return (), ()
        count = self._settings.candidates
        hits = self._creatives.search(query, vector, evaluation, SEARCH_FACTOR * count)
        return choose_offers(self._floor.keep(query, hits, vector), count)

    def participation(self, campaign_id: str) -> float:
        """Return the share of auctions that pacing lets a campaign take part in now."""
        return self.index.participation(campaign_id)

    async def load(self) -> None:
        """Read all live campaigns; errors of the database propagate."""
        now = datetime.now(UTC)
        await self._apply(await asyncio.to_thread(snapshot, self._database, now), now)
        await self._read_rates()
        if len(self._to_encode) <= ENCODED_BEFORE_START:
            await self._encode_creatives()
        else:
            self._encoding = asyncio.create_task(self._encode_creatives())

    async def refresh(self) -> None:
        """Apply the changes since the last call; an error of the database propagates and changes nothing."""
        async with self._refreshing:
            now = datetime.now(UTC)
            await self._apply(await asyncio.to_thread(changes_since, self._database, self._cursor, now), now)
            if self._to_encode and (self._encoding is None or self._encoding.done()):
                await self._encode_creatives()

    async def pace(self) -> None:
        """Update participation from the latest spend and the click rates, and drop ended campaigns; once a minute."""
        now = datetime.now(UTC)
        for number, campaign in enumerate(list(self.index), start=1):
            if campaign.ends_at is not None and campaign.ends_at + KEPT_AFTER_END < now:
                self._remove(campaign)
            else:
                self._pace(campaign, now)
            if number % UPDATES_PER_TURN == 0:
                await asyncio.sleep(0)
        await self._read_rates()

    async def _apply(self, changes: Snapshot, now: datetime) -> None:
        for number, campaign in enumerate(changes.campaigns, start=1):
            if campaign.state is CampaignState.ENDED:
                self._remove(campaign)
            else:
                self._put(campaign, now)
            if number % PUTS_PER_TURN == 0:
                await asyncio.sleep(0)
        for number, spend in enumerate(changes.spends, start=1):
            self.index.set_spend(spend)
            if number % UPDATES_PER_TURN == 0:
                await asyncio.sleep(0)
        self._cursor, self.synced_at = changes.cursor, time.monotonic()

    def _put(self, campaign: Campaign, now: datetime) -> None:
        known = self.index.get(campaign.id)
        if known is not None and known.version >= campaign.version:
            return
        if known is not None:
            self._creatives.remove(self.index.rows_of(campaign.id))
        try:
            self.index.put(campaign)
        except InputError as error:
            # The API rejects such campaigns; one that was written to the database directly must not stop the others.
            log.error("marketplace.invalid_campaign", campaign_id=campaign.id, place=error.place)
            return
        self._creatives.put(self.index.rows_of(campaign.id), campaign.creatives)
        self._pace(campaign, now)
        if self._encoder is not None and campaign.creatives:
            self._to_encode.append(campaign.id)

    def _remove(self, campaign: Campaign) -> None:
        if self.index.get(campaign.id) is not None:
            self._creatives.remove(self.index.rows_of(campaign.id))
            self.index.remove(campaign.id)
        self._pacing.pop(campaign.id, None)

    def _pace(self, campaign: Campaign, now: datetime) -> None:
        state = next_state(self._pacing.get(campaign.id), campaign, self.index.spend(campaign.id), now)
        self._pacing[campaign.id] = state
        self.index.set_participation(campaign.id, state.participation)

    async def _encode_creatives(self) -> None:
        """Encode the creatives without vectors, then cluster the vectors if that is due."""
        assert self._encoder is not None or not self._to_encode, "campaigns are queued only with an encoder"
        while self._to_encode and self._encoder is not None:
            ids, self._to_encode = self._to_encode[:ENCODED_TOGETHER], self._to_encode[ENCODED_TOGETHER:]
            campaigns = [campaign for campaign in map(self.index.get, ids) if campaign is not None]
            texts = [creative_text(creative) for campaign in campaigns for creative in campaign.creatives]
            vectors = await self._encoder.vectors(texts) if texts else None
            if vectors is not None:
                self._put_vectors(campaigns, vectors)
        clustering = self._creatives.start_clustering()
        if clustering is not None:
            await asyncio.to_thread(clustering.run)
            self._creatives.adopt(clustering)

    def _put_vectors(self, campaigns: Sequence[Campaign], vectors: Vectors) -> None:
        at = 0
        for campaign in campaigns:
            own, at = vectors[at : at + len(campaign.creatives)], at + len(campaign.creatives)
            # A campaign that changed while it was encoded has been queued again.
            if self.index.get(campaign.id) is campaign:
                self._creatives.put_vectors(self.index.rows_of(campaign.id), own)

    async def _read_rates(self) -> None:
        if any(campaign.pricing is not Pricing.CLICK for campaign in self.index):
            self.rates = self.rates.updated(await asyncio.to_thread(creative_counts, self._database))
