"""All campaigns in the memory of one router: the indexes, pacing, frequency counts and click rates, kept up to date.

Requests are answered from here without the database; a background task reads its changes about every second. Belongs to
the event loop; the database and the encoder are called on threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import InputError
from mechanism.types import AdId, Micros
from serving.auction.accrual import Accrual
from serving.auction.eligibility import EligibilityIndex, Evaluation, PlacementRequest
from serving.auction.eligibility.request import UNCOUNTED, ReachedCaps
from serving.auction.encoding import QueryEncoder
from serving.auction.frequency import FrequencyCaps, has_caps
from serving.auction.offers import Offer, choose_offers
from serving.auction.pacing import PacingState, next_state
from serving.auction.rates import ClickRates, creative_counts
from serving.auction.relevance import RelevanceFloor
from serving.auction.retrieval import CreativeIndex, Hit, creative_text
from serving.auction.retrieval.conversation import conversation_vector
from serving.auction.retrieval.vectors import Vectors
from serving.auction.separation import Displaced
from serving.campaigns.dayparts import day_of
from serving.campaigns.funds import Account, account_of
from serving.campaigns.snapshots import Snapshot, changes_since, snapshot
from serving.campaigns.types import Campaign, CampaignState, Pacing, Pricing, Priority, Spend, with_accrued
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
CAPS_S = 0.5
"""How long an answer waits for the database to count a reader; afterwards it has no ads with frequency caps."""
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
        self.frequency = FrequencyCaps(database, key)
        self.rates = ClickRates(settings.prior_ctr, settings.prior_shown)
        self.accrual = Accrual()
        self.synced_at = 0.0
        self._database = database
        self._encoder = encoder
        self._settings = settings
        self._floor = floor
        self._creatives = CreativeIndex(width if encoder else 0)
        self._cursor = 0
        self._pacing: dict[str, PacingState] = {}
        self._accrued_elsewhere: dict[str, Micros] = {}
        self._unsettled: list[tuple[str, str, Collection[AdId], datetime]] = []
        self._refreshing = asyncio.Lock()
        self._to_encode: list[str] = []  # ids of campaigns whose creatives have no vectors yet
        self._encoding: asyncio.Task[None] | None = None

    async def evaluate(self, request: PlacementRequest) -> Evaluation:
        """Decide which creatives are eligible for a request, frequency caps included."""
        return self.index.evaluate(request, await self._reached_caps(request))

    async def within_caps(self, request: PlacementRequest, offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
        """Reserve an impression for each offer with a cap, and leave out those that have none left.

        Another router may have shown the last one since the evaluation. Without an answer of the database in time, all
        offers with a cap are left out.
        """
        capped = [(offer.campaign, offer.ad.id) for offer in offers if has_caps(offer.campaign)]
        if not capped:
            return offers
        allowed: frozenset[str] = frozenset()
        try:
            async with asyncio.timeout(CAPS_S):
                allowed = await asyncio.to_thread(
                    self.frequency.reserve, request.user_id or "", request.auction_id, capped, request.now
                )
        except (SQLAlchemyError, TimeoutError) as error:
            log.warning("marketplace.caps_not_reserved", auction_id=request.auction_id, reason=type(error).__name__)
        return tuple(offer for offer in offers if offer.ad.id in allowed or not has_caps(offer.campaign))

    async def settle_caps(self, user_id: str, auction_id: str, shown: Collection[AdId]) -> None:
        """Count what an answer showed of campaigns with caps.

        Raises:
            SQLAlchemyError: if the database is away; `refresh` tries again, before the reservation ends and with it the
                memory of what was shown.
        """
        settlement = (user_id, auction_id, shown, datetime.now(UTC))
        try:
            await asyncio.to_thread(self.frequency.settle, *settlement)
        except SQLAlchemyError:
            self._unsettled.append(settlement)
            raise

    async def _settle_again(self) -> None:
        while self._unsettled:
            await asyncio.to_thread(self.frequency.settle, *self._unsettled[0])
            del self._unsettled[0]

    async def vector(self, text: str) -> Vectors | None:
        """Return the question's vector; None without an encoder, or if it is not ready in time."""
        return None if self._encoder is None else await self._encoder.vector(text, self._settings.encode_s)

    def offers(
        self, query: str, vectors: Sequence[Vectors | None], evaluation: Evaluation
    ) -> tuple[tuple[Offer, ...], tuple[Displaced, ...]]:
        """Return the offers of one prompt in a stable order, and the hits that separation displaced.

        Sponsorships come before standard campaigns, house ads only where no paid ad can be offered. `vectors` are those
        of the reader's last messages, oldest first. None where the conversation has no need, or no
        creative is near enough to it. A need that begins after "hello" is in the newest message alone.
        """
        for vector in (conversation_vector(vectors), vectors[-1] if vectors else None):
            if self._floor.admits(query, vector):
                break
        else:
            return (), ()
        count = self._settings.candidates
        hits: tuple[Hit, ...] = ()
        for priority, tier in evaluation.tiers():
            if priority is Priority.HOUSE and hits:
                break  # a paid ad can be offered
            found = self._creatives.search(query, vector, tier, SEARCH_FACTOR * count)
            hits += self._floor.keep(query, found, vector)
        offers, displaced = choose_offers(hits, count, self._settings.block_advertisers)
        scale = self._settings.bid_scale
        bids = [(offer, scale.effective(offer.bid, offer.campaign.currency)) for offer in offers]
        return tuple(offer if bid == offer.bid else replace(offer, bid=bid) for offer, bid in bids), displaced

    async def _reached_caps(self, request: PlacementRequest) -> ReachedCaps:
        if not request.consent or not request.user_id:
            return UNCOUNTED
        if not self.index.has_caps:
            return ReachedCaps(countable=True)
        try:
            async with asyncio.timeout(CAPS_S):
                return await asyncio.to_thread(
                    self.frequency.reached, request.user_id, request.consent, request.now, self.index.get
                )
        except (SQLAlchemyError, TimeoutError) as error:
            log.warning("marketplace.caps_not_read", auction_id=request.auction_id, reason=type(error).__name__)
            return UNCOUNTED

    def participation(self, campaign_id: str) -> float:
        """Return the share of auctions that pacing lets a campaign take part in now."""
        return self.index.participation(campaign_id)

    def accrue(self, offer: Offer, charged: Micros | None, at: float) -> None:
        """Count the cost of an ad against its campaign's budgets and account until the ledger books it.

        `charged` is what the answer itself costs, None for a link that costs its bid if it is clicked.
        """
        for limit in self._limits(offer.campaign):
            if charged is None:
                self.accrual.expect(limit, offer.price * float(self.rates.of(offer.ad.id)), at)
            else:
                self.accrual.charge(limit, charged, at)
            self._set_accrued(limit, at)

    def accrue_click(self, campaign: Campaign, price: Micros, at: float) -> None:
        """Count a valid click."""
        for limit in self._limits(campaign):
            self.accrual.charge(limit, price, at)
            self._set_accrued(limit, at)

    def settle_accrued(self, booked_until: float, elsewhere: Mapping[str, Micros], now: float) -> None:
        """Drop what is booked, and take over what the other routers have accrued."""
        changed = self.accrual.settle(booked_until, now) | self._accrued_elsewhere.keys() | elsewhere.keys()
        self._accrued_elsewhere = dict(elsewhere)
        for limit in changed:
            self._set_accrued(limit, now)

    def _limits(self, campaign: Campaign) -> list[str]:
        """Return what limits the spend of a campaign: itself if it has a budget, its account if that is limited."""
        has_budget = campaign.daily_budget_micros is not None or campaign.total_budget_micros is not None
        account = account_of(campaign)
        return [campaign.id] * has_budget + [account.key] * self.index.funds.is_limited(account)

    def _set_accrued(self, limit: str, now: float) -> None:
        micros = self.accrual.of(limit, now) + self._accrued_elsewhere.get(limit, 0)
        account = Account.of_key(limit)
        if account is None:
            self.index.set_accrued(limit, micros)
        else:
            self.index.funds.set_accrued(account, micros)

    async def load(self) -> None:
        """Read all live campaigns; errors of the database propagate."""
        now = datetime.now(UTC)
        await self._apply(await asyncio.to_thread(snapshot, self._database, now), now)
        if any(map(self._needs_rates, self.index)):
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
            await self._settle_again()
            if self._to_encode and (self._encoding is None or self._encoding.done()):
                await self._encode_creatives()

    async def pace(self) -> None:
        """Update participation from the latest spend and the click rates, and drop ended campaigns; once a minute."""
        now, rated = datetime.now(UTC), False
        for number, campaign in enumerate(list(self.index), start=1):
            rated = rated or self._needs_rates(campaign)
            if campaign.ends_at is not None and campaign.ends_at + KEPT_AFTER_END < now:
                self._remove(campaign)
            elif campaign.pacing is Pacing.EVEN:  # all others take part in every auction from their `_put` on
                self._pace(campaign, now)
            if number % UPDATES_PER_TURN == 0:
                await asyncio.sleep(0)
        if rated:
            await self._read_rates()

    async def _apply(self, changes: Snapshot, now: datetime) -> None:
        for number, campaign in enumerate(changes.campaigns, start=1):
            if campaign.state is CampaignState.ENDED:
                self._remove(campaign)
            else:
                self._put(campaign, now)
            if number % PUTS_PER_TURN == 0:
                await asyncio.sleep(0)
        for own in changes.funds:
            self.index.funds.set_left(own.account, own.left)
        for number, spend in enumerate(changes.spends, start=1):
            # A campaign that comes back comes with its spend (`changes_since`); late charges of others would pile up.
            if self.index.get(spend.campaign_id) is not None:
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
        self._set_accrued(campaign.id, now.timestamp())
        self._pace(campaign, now)
        if self._encoder is not None and campaign.creatives:
            self._to_encode.append(campaign.id)

    def _remove(self, campaign: Campaign) -> None:
        if self.index.get(campaign.id) is not None:
            self._creatives.remove(self.index.rows_of(campaign.id))
            self.index.remove(campaign.id)
        self._pacing.pop(campaign.id, None)

    def _pace(self, campaign: Campaign, now: datetime) -> None:
        spend, accrued = self.index.spend(campaign.id), self.accrual.charged(campaign.id)
        if accrued:
            spend = with_accrued(spend or Spend(campaign_id=campaign.id), accrued, day_of(now, campaign.time_zone))
        state = next_state(self._pacing.get(campaign.id), campaign, spend, now)
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

    def _needs_rates(self, campaign: Campaign) -> bool:
        return campaign.pricing is not Pricing.CLICK or bool(self._limits(campaign))

    async def _read_rates(self) -> None:
        self.rates = self.rates.updated(await asyncio.to_thread(creative_counts, self._database))
