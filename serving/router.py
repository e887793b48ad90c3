"""The parts of one router process: assembled, started, kept up to date, and stopped without losing an event.

The HTTP side calls these parts and holds no state of its own.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from secrets import token_hex

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import PolicyError
from mechanism.files import replace_file
from serving.accounts.advertisers import AdvertiserStore
from serving.accounts.idempotency import IdempotencyStore
from serving.accounts.keys import AccountStore
from serving.accounts.publishers import PlacementDirectory, PublisherStore
from serving.answering.answer import RouterContext, RunningAnswer, write_answer
from serving.answering.auction_records import AuctionLog, OwnedRecord
from serving.answering.delivery import Delivery
from serving.answering.finalise import AdsPerAnswer, Sinks, finalise
from serving.answering.question import Question
from serving.answering.receipts import ReceiptSigner
from serving.answering.rendering import DeltaQueue
from serving.answering.repeats import RecentClicks, fades
from serving.answering.result import AnswerRequest
from serving.answering.shared_records import WRITE_S, SharedRecords
from serving.auction.ad_load import AdLoadState, next_load, read_state
from serving.auction.encoding import Encoder, QueryEncoder
from serving.auction.marketplace import Marketplace
from serving.auction.relevance import RelevanceFloor
from serving.auction.sensitive import SensitiveGate
from serving.auction.sensitive.meaning import PROBE, packaged_meaning
from serving.campaigns.storage import CampaignStore
from serving.clicks.invalid_traffic import ClickScreen
from serving.clicks.tokens import TokenSigner, key_ring
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.database.signatures import Signer
from serving.errors import Overloaded
from serving.ledger.accrued import AccruedStore
from serving.ledger.background import LedgerProcess, LedgerThread
from serving.ledger.entries import ChargeEvent, ChargeResult
from serving.ledger.progress import LedgerProgress
from serving.ledger.worker import behind
from serving.metrics import Metrics
from serving.policies.protocol import AsyncPolicyBackend
from serving.settings import PSEUDONYMS, ServeSettings, derived
from streaming.addresses import open_log
from streaming.log import LogUnavailable
from streaming.producer import EventProducer
from streaming.topics import all_topics

log = structlog.get_logger(__name__)

AD_LOAD_S = 60.0
AD_LOAD_FILE = "ad-load.json"
MAINTAIN_S = 3600.0
LAG_S = 1.0
ACCRUED_S = 1.0
CLAIMS_S = 5.0
"""How often the claims of requests with an Idempotency-Key are renewed, `serving.http.idempotency.ABANDONED_AFTER`."""
LEDGER_AWAY = "ledger:away"
"""Why answers have no ads while the ledger is away for too long."""
PLACEMENTS_S = 5.0
PROBE_S = 2.0
RECORDED_S = 2.0
"""How long a reader of an auction's record waits for an answer that is being finalised."""
DELIVERY_S = 120.0
"""How long a written answer may take to be sent before it is finalised as far as it was taken."""
FINALISED_S = 5.0
"""How long answers that are sent may take to be finalised at shutdown."""
GATHERED_S = 0.05
"""How long a ledger thread gathers events for one transaction."""
STALE_S = 60.0
"""Seconds without reading the database after which the router is not ready: budgets may be spent by then."""


class Router:
    """The parts of one router process.

    `model` is the public name of the served model; without an `encoder` candidates are searched by words alone. The
    `secret` signs, the `other_secrets` verify beside it. Opens the database and migrates it to this version's schema.

    Raises:
        ConfigError: if a newer version wrote the database, or the address of `/metrics` is taken.
    """

    def __init__(
        self,
        backend: AsyncPolicyBackend,
        model: str,
        secret: bytes,
        settings: ServeSettings,
        encoder: Encoder | None,
        other_secrets: Sequence[bytes] = (),
    ) -> None:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        migrate(settings.database_url)
        self.settings = settings
        self.backend = backend
        self.secrets = (secret, *other_secrets)
        self.metrics = Metrics(settings.currency)
        verifying = self.secrets
        cursors = Signer([derived(one, "cursors") for one in verifying])
        self.database = Database(settings.database_url, cursors=cursors)
        self.campaigns = CampaignStore(self.database)
        self.accounts = AccountStore(self.database, [derived(one, "api keys") for one in verifying])
        self.publishers = PublisherStore(self.database)
        self.advertisers = AdvertiserStore(self.database)
        self.placements = PlacementDirectory(self.publishers)
        self.idempotency = IdempotencyStore(self.database, [derived(one, "idempotency keys") for one in verifying])
        self.signer = TokenSigner(key_ring([derived(one, "click tokens") for one in verifying]))
        self.receipts = ReceiptSigner([derived(one, "receipts") for one in verifying])
        self.clicks = RecentClicks()
        self.screen = ClickScreen(derived(secret, "traffic"))
        kept = timedelta(seconds=settings.shared_records_s)
        self._shared_records = SharedRecords(self.database, kept) if kept else None
        share = self._shared_records.add if self._shared_records else None
        self.records = AuctionLog(settings.audited_answers, share)
        self.log = open_log(settings.log_address)
        topics = all_topics(retention=timedelta(days=settings.retention_days))
        if self.log.is_local:
            self.log.create(topics)
        self.events = EventProducer(settings.spool_path, self.log, topics=topics, registry=self.metrics.registry)
        self.ledger = self._ledger()
        self._encoder = None if encoder is None else QueryEncoder(encoder)
        probe_D = None if encoder is None else encoder.encode([PROBE])[0]
        width = 0 if probe_D is None else len(probe_D)
        meaning = packaged_meaning(probe_D)
        floor = RelevanceFloor(settings.relevance_floor, meaning)
        self.marketplace = Marketplace(
            self.database, self._encoder, width, derived(secret, "frequency"), settings, floor
        )
        self._ad_load = read_state(settings.state_dir / AD_LOAD_FILE) if settings.ad_load else AdLoadState()
        self.context = RouterContext(
            model,
            self.marketplace,
            backend,
            self.signer,
            self.metrics,
            settings,
            SensitiveGate(meaning, settings.allowed_topics),
            self.placements,
            derived(secret, "readers of links"),
            self._ad_load.load,
        )
        self._ads_per_answer = AdsPerAnswer()
        self._sinks = Sinks(
            self.records,
            self.events,
            self.metrics,
            self.marketplace,
            self._ads_per_answer,
            self.placements,
            derived(secret, PSEUDONYMS),
        )
        self.progress = LedgerProgress(self.log, self.database, self.events)
        self._settled_until = self.progress.booked_until
        self._accrued = AccruedStore(self.database, token_hex(8))
        self.in_flight = 0
        self.draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._finalising: dict[str, asyncio.Task[None]] = {}
        self._watch_gauges()
        self.metrics_port = self.metrics.expose(settings.metrics_address) if settings.metrics_address else 0

    def begin_answer(self, question: Question, *, owner: str, base_url: str, arrived: float) -> RunningAnswer:
        """Start writing an answer; it is finalised once, however it ends.

        Raises:
            Overloaded: if the limit of answers under way is reached.
        """
        if self.in_flight >= self.settings.in_flight:
            raise Overloaded("the router's limit of answers under way is reached")
        request = AnswerRequest.create(
            question,
            owner=owner,
            base_url=base_url,
            arrived=arrived,
            settings=self.settings,
            ad_load=self.context.ad_load,
            fades=fades(question.shown_tokens, self.signer, self.clicks, self.settings.repeat_fade),
        )
        self.in_flight += 1
        deltas = DeltaQueue()
        task = asyncio.create_task(write_answer(request, self.context, deltas))
        answer = RunningAnswer(request, deltas, task, Delivery())
        finalising = asyncio.create_task(self._finalise(answer))
        self._finalising[request.auction_id] = finalising
        finalising.add_done_callback(lambda _: self._answer_ended(request.auction_id))
        return answer

    async def recorded(self, auction_id: str) -> OwnedRecord | None:
        """Return the record of an auction: of an answer that was just sent, too, which is finalised at once."""
        if (finalising := self._finalising.get(auction_id)) is not None:
            await asyncio.wait((finalising,), timeout=RECORDED_S)
        own = self.records.get(auction_id)
        if own is not None or self._shared_records is None:
            return own
        return await self._shared_records.find(auction_id)

    async def newest_records(self, owner: str | None, before: str, count: int) -> list[OwnedRecord]:
        """Return records as `AuctionLog.newest` does, those of other routers among them where records are shared."""
        own = self.records.newest(owner, before, count)
        if self._shared_records is None:
            return own
        shared = await asyncio.to_thread(self._shared_records.newest, owner, before, count)
        found = {one.record.auction_id: one for one in (*shared, *own)}
        return [found[auction_id] for auction_id in sorted(found, reverse=True)[:count]]

    async def start(self) -> None:
        """Load campaigns and policy, and start the background tasks. The database has to be readable."""
        await self.backend.start(self.metrics)
        await self.marketplace.load()
        await asyncio.to_thread(self.placements.load)
        # Campaigns live as long as the process: a full collection that walks 10,000 of them stalls every stream.
        gc.collect()
        gc.freeze()
        if self.ledger is not None:
            self.ledger.start()
        self._every(self.settings.routes_s, self.backend.refresh, "policy_refresh")
        self._every(self.settings.refresh_s, self.marketplace.refresh, "campaign_refresh")
        self._every(PLACEMENTS_S, lambda: asyncio.to_thread(self.placements.load), "placements_refresh")
        self._every(self.settings.pacing_s, self.marketplace.pace, "pacing")
        self._every(PROBE_S, self._probe_policy, "policy_probe")
        self._every(LAG_S, self._measure_lag, "ledger_lag")
        self._every(ACCRUED_S, self._share_accrued, "accrued_spend")
        self._every(CLAIMS_S, lambda: asyncio.to_thread(self.idempotency.renew, datetime.now(UTC)), "claims_renewal")
        self._every(MAINTAIN_S, self._maintain_log, "log_maintenance")
        if (shared := self._shared_records) is not None:
            self._every(WRITE_S, lambda: asyncio.to_thread(shared.write), "shared_records")
        if self.settings.ad_load is not None:
            self._every(AD_LOAD_S, self._adjust_ad_load, "ad_load")

    async def stop(self) -> None:
        """Stop the background tasks; afterwards all events are on disk, and most of them are in the ledger."""
        self.draining = True
        if self._finalising:
            await asyncio.wait(self._finalising.values(), timeout=FINALISED_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backend.close()
        if self._encoder is not None:
            self._encoder.close()
        await asyncio.to_thread(self._close_storage)
        self.metrics.close()
        # Frozen objects are not freed at the interpreter's end, which extension modules report as leaks of theirs.
        gc.unfreeze()

    async def ready(self) -> str:
        """Return why answers and charges are not possible; empty when they are."""
        if self.draining:
            return "the server is going down"
        if not await self.backend.ready():
            return "the policy cannot answer"
        if time.monotonic() - self.marketplace.synced_at > max(STALE_S, 10 * self.settings.refresh_s):
            return "the database cannot be read"
        return ""

    def uncharged(self) -> int:
        """Count the events that are not sent to the log, and those of a local log that are not booked.

        Reads the database.
        """
        waiting = self.events.buffered + self.events.waiting
        if self.log.is_local:
            waiting += sum(behind(self.log, self.database).values())
        return waiting

    async def _finalise(self, answer: RunningAnswer) -> None:
        """Finalise an answer when it is written and sent, as far as its client took it."""
        await asyncio.wait((answer.task,))
        if answer.task.cancelled():  # before it began
            return
        await answer.delivery.wait(DELIVERY_S)
        written = answer.task.result()
        result = written.as_delivered(answer.delivery)
        request = answer.request
        try:
            finalise(result, self._sinks)
        except Exception as error:
            log.error("answer.not_finalised", auction_id=request.auction_id, reason=type(error).__name__)
        if not result.reserved_caps:
            return
        try:
            # A reader whose client had gone sees the ads of a kept answer when the client asks again.
            counted = written.shown if answer.delivery.kept else result.shown
            await self.marketplace.settle_caps(request.ads.user_id, request.auction_id, counted)
        except Exception as error:  # until it succeeds, the reservations count
            log.error("answer.caps_not_settled", auction_id=request.auction_id, reason=type(error).__name__)

    def _answer_ended(self, auction_id: str) -> None:
        del self._finalising[auction_id]
        self.in_flight -= 1

    def _ledger(self) -> LedgerProcess | LedgerThread | None:
        if self.settings.ledger == "process":
            return LedgerProcess(self.settings.log_address, self.settings.database_url, self._count_charge)
        if self.settings.ledger == "thread":
            return LedgerThread(self.log, self.database, self._count_charge, GATHERED_S)
        return None

    def _close_storage(self) -> None:
        self.events.close()
        if self.ledger is not None:
            self.ledger.stop(within_s=10)
        if self._shared_records is not None:
            try:
                self._shared_records.write()
            except SQLAlchemyError as error:
                log.warning("router.records_not_shared", reason=type(error).__name__)
        self.log.close()
        self.database.close()

    def _count_charge(self, event: ChargeEvent, result: ChargeResult) -> None:
        """Count revenue; called on a thread of the ledger."""
        self.metrics.revenue.labels(event.currency, event.kind.value, event.model_version).inc(result.charged_micros)
        charged = {"event_id": result.id, "charged_micros": result.charged_micros, "currency": event.currency}
        if result.reason:
            log.info("ledger.charged_less", reason=result.reason, **charged)
        else:
            log.info("ledger.charged", **charged)

    def _every(self, seconds: float, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run `work` at an interval; a failure is logged and does not end the task."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await work()
                except (SQLAlchemyError, LogUnavailable, PolicyError, OSError) as error:
                    log.error("router.task_failed", task=name, reason=type(error).__name__)
                except Exception as error:
                    log.error("router.task_failed", task=name, reason=type(error).__name__, unexpected=True)

        self._tasks.append(asyncio.create_task(repeat(), name=name))

    async def _probe_policy(self) -> None:
        self.metrics.ready.set(float(await self.backend.ready()))
        self.metrics.breaker.set(float(self.backend.breaker_open))

    async def _measure_lag(self) -> None:
        longest = self.settings.stop_ads_after_s
        try:
            waiting = await asyncio.to_thread(self.progress.measure)
            self.metrics.uncharged.set(self.events.buffered + self.events.waiting + waiting)
        finally:
            away = longest > 0 and self.progress.lag_s > longest
            if away != bool(self.context.paused):
                log.warning("router.ads_stopped" if away else "router.ads_resumed", lag_s=round(self.progress.lag_s))
            self.context.paused = LEDGER_AWAY if away else ""

    async def _share_accrued(self) -> None:
        """Share what the ledger has not booked with the other routers; without the database, keep what is known."""
        accrual, now = self.marketplace.accrual, time.time()
        own = {id_: accrual.of(id_, now) for id_ in accrual}
        elsewhere = await asyncio.to_thread(self._accrued.exchange, own, datetime.now(UTC))
        # What was booked by the last time: the spend that holds it has been read since.
        self.marketplace.settle_accrued(self._settled_until, elsewhere, now)
        self._settled_until = self.progress.booked_until

    async def _maintain_log(self) -> None:
        await asyncio.to_thread(self.log.maintain)
        await asyncio.to_thread(self.events.maintain)
        await asyncio.to_thread(self.idempotency.sweep, datetime.now(UTC))
        await asyncio.to_thread(self._accrued.sweep, datetime.now(UTC))
        await asyncio.to_thread(self.marketplace.frequency.sweep, datetime.now(UTC))
        if self._shared_records is not None:
            await asyncio.to_thread(self._shared_records.sweep, datetime.now(UTC))

    async def _adjust_ad_load(self) -> None:
        """Move the ad load towards the target number of ads per answer."""
        seen, settings = self._ads_per_answer, self.settings.ad_load
        if settings is None or not seen.answers:
            return
        self._ad_load = next_load(self._ad_load, seen.ads / seen.answers, seen.answers, AD_LOAD_S, settings)
        self.context.ad_load = self._ad_load.load
        if seen.answers >= settings.least_answers:
            seen.answers, seen.ads = 0, 0
            path = self.settings.state_dir / AD_LOAD_FILE
            await asyncio.to_thread(replace_file, path, msgspec.json.encode(self._ad_load))

    def _watch_gauges(self) -> None:
        metrics, market = self.metrics, self.marketplace
        metrics.watch(metrics.in_flight, lambda: float(self.in_flight))
        metrics.watch(metrics.campaigns, lambda: float(len(market.index)))
        metrics.watch(metrics.ledger_lag, lambda: self.progress.lag_s)
        metrics.watch(metrics.ad_load, lambda: self.context.ad_load)
        metrics.watch(metrics.unsynced, lambda: time.monotonic() - market.synced_at if market.synced_at else -1.0)
