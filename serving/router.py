"""All parts of one router process: how they are put together, started, kept fresh and stopped without losing anything.

The HTTP side asks these parts and holds no state of its own.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from mechanism.errors import PolicyError
from mechanism.files import replace_file
from serving.accounts.keys import AccountStore
from serving.answering.answer import LiveAnswer, Room
from serving.answering.auction_records import AuctionLog
from serving.answering.finalise import settle
from serving.answering.question import Question
from serving.auction.ad_load import AdLoadState, next_load
from serving.auction.encoding import Encoder, QueryEncoder
from serving.auction.marketplace import Marketplace
from serving.campaigns.storage import CampaignStore
from serving.clicks.invalid_traffic import ClickScreen
from serving.clicks.tokens import TokenSigner
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.errors import ClientGone, Overloaded
from serving.ledger.background import LedgerProcess, LedgerThread
from serving.ledger.entries import ChargeEvent, ChargeResult
from serving.ledger.worker import behind
from serving.metrics import Metrics
from serving.policies.protocol import AsyncPolicyBackend
from serving.policies.versioned import RoutedPolicy
from serving.settings import PSEUDONYMS, ServeSettings, derived
from streaming.addresses import ensure, open_log
from streaming.embedded import EmbeddedLog
from streaming.producer import EventProducer
from streaming.topics import all_topics

log = structlog.get_logger(__name__)

AD_LOAD_S = 60.0
MAINTAIN_S = 3600.0
LAG_S = 5.0
GATHERED_S = 0.05
"""What the charging thread lets come together; with it there is nobody who minds more transactions."""
STALE_S = 60.0
"""Without a look at the database for so long the router is not ready: it may be charging spent budgets."""


class Router:
    """The parts. `model` is the served model's public name; `encoder` None searches by words alone. Opens the database
    and brings it to this version's schema. Raises ConfigError for a database that a newer version wrote, and for an
    address of `/metrics` that cannot be had."""

    def __init__(
        self, backend: AsyncPolicyBackend, model: str, secret: bytes, settings: ServeSettings, encoder: Encoder | None
    ) -> None:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        migrate(settings.database_url)
        self.settings = settings
        self.metrics = Metrics()
        self.database = Database(settings.database_url)
        self.campaigns = CampaignStore(self.database)
        self.accounts = AccountStore(self.database, [derived(secret, "api keys")])
        self.signer = TokenSigner(derived(secret, "click tokens"))
        self.screen = ClickScreen(derived(secret, "traffic"))
        self.records = AuctionLog(settings.audited_answers)
        self.log = open_log(settings.log_address)
        if isinstance(self.log, EmbeddedLog):
            ensure(self.log, all_topics())
        self.events = EventProducer(settings.spool_path, self.log, topics=all_topics(), registry=self.metrics.registry)
        self._pseudonyms = derived(secret, PSEUDONYMS)
        self.charging = self._charging()
        self._encoder = None if encoder is None else QueryEncoder(encoder)
        width = 0 if encoder is None else int(encoder.encode(["width"]).shape[1])
        key = derived(secret, "frequency")
        self.marketplace = Marketplace(self.database, self._encoder, width, key, settings)
        self.room = Room(model, self.marketplace, backend, self.signer, self.metrics, settings)
        self.draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._ad_load = _read_ad_load(settings.state_dir) if settings.ad_load else AdLoadState()
        self.room.load = self._ad_load.load
        self._watch()
        self.metrics_port = self.metrics.expose(settings.metrics_address) if settings.metrics_address else 0

    @property
    def backend(self) -> AsyncPolicyBackend:
        """What writes the answers."""
        return self.room.backend

    def open(self, question: Question, base_url: str, arrived: float, owner: str) -> LiveAnswer:
        """An answer to be run. Raises Overloaded at the limit of answers under way."""
        if self.room.in_flight >= self.settings.in_flight:
            raise Overloaded("as many answers as this router writes at once are under way")
        self.room.in_flight += 1
        return LiveAnswer(self.room, question, base_url, arrived, owner)

    def begin(self, live: LiveAnswer) -> asyncio.Task[None]:
        """Starts writing an answer that `open` gave; however it ends, it is settled once."""
        writing = asyncio.create_task(live.run())
        writing.add_done_callback(lambda done: self._ended(live, done))
        return writing

    async def start(self) -> None:
        """Loads the campaigns and begins the background work. Raises where the database cannot be read."""
        if isinstance(self.backend, RoutedPolicy):
            await self.backend.start(self.metrics)
            self._every(self.settings.routes_s, self.backend.refresh, "routes not followed")
        await self.marketplace.load()
        # Campaigns stay for good: a full collection that walks 10,000 of them stalls every stream for its length.
        gc.collect()
        gc.freeze()
        if self.charging is not None:
            self.charging.start()
        self._every(self.settings.refresh_s, self.marketplace.refresh, "campaigns not refreshed")
        self._every(self.settings.pacing_s, self.marketplace.pace, "pacing not updated")
        self._every(2.0, self._probe, "policy not probed")
        self._every(LAG_S, self._measure_lag, "lag of the ledger not known")
        self._every(MAINTAIN_S, self._maintain, "log not cleaned")
        if self.settings.ad_load is not None:
            self._every(AD_LOAD_S, self._steer, "ad load not steered")

    async def stop(self) -> None:
        """Ends the background work; everything that was queued is on disk afterwards, most of it in the ledger."""
        self.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backend.close()
        if self._encoder is not None:
            self._encoder.close()
        await asyncio.to_thread(self._stop_charging)
        self.metrics.close()
        # What stays frozen is not taken apart at the interpreter's end, which extension modules report as their leaks.
        gc.unfreeze()

    async def ready(self) -> str:
        """Empty when answers and charges are possible, else why not."""
        if self.draining:
            return "the server is going down"
        if not await self.backend.ready():
            return "the policy cannot answer"
        if time.monotonic() - self.marketplace.synced_at > max(STALE_S, 10 * self.settings.refresh_s):
            return "the database cannot be read"
        return ""

    def _ended(self, live: LiveAnswer, writing: asyncio.Task[None]) -> None:
        if writing.cancelled():  # perhaps before it began
            live.outcome = "cancelled"
            live.outlet.close(ClientGone("the client left"))
        try:
            settle(live, self.events, self.records, self._pseudonyms)
        except Exception as error:
            log.error("answer not settled", auction_id=live.auction_id, reason=type(error).__name__)
        live.release()
        self.room.in_flight -= 1

    def uncharged(self) -> int:
        """Events of this router that the log does not have yet, and those of a log on this machine that the ledger has
        not booked. Reads the database."""
        waiting = self.events.buffered + self.events.waiting
        if isinstance(self.log, EmbeddedLog):
            waiting += sum(behind(self.log, self.database).values())
        return waiting

    def _charging(self) -> LedgerProcess | LedgerThread | None:
        if self.settings.ledger == "process":
            return LedgerProcess(self.settings.log_address, self.settings.database_url, self._charged)
        if self.settings.ledger == "thread":
            return LedgerThread(self.log, self.database, self._charged, GATHERED_S)
        return None

    def _stop_charging(self) -> None:
        self.events.close()
        if self.charging is not None:
            self.charging.stop(within_s=10)
        if isinstance(self.log, EmbeddedLog):
            self.log.close()
        self.database.close()

    def _charged(self, event: ChargeEvent, result: ChargeResult) -> None:
        """Called on a thread of the charging."""
        self.metrics.revenue.labels(event.currency, event.kind.value, event.model_version).inc(result.charged_micros)
        if result.reason:
            log.info("charged less", event_id=result.id, reason=result.reason, charged_micros=result.charged_micros)
        else:
            log.info("charged", event_id=result.id, charged_micros=result.charged_micros, currency=event.currency)

    def _every(self, seconds: float, work: Callable[[], Awaitable[None]], failure: str) -> None:
        async def repeat() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await work()
                except (SQLAlchemyError, PolicyError, OSError) as error:
                    log.error(failure, reason=type(error).__name__)
                except Exception as error:
                    log.error(failure, reason=type(error).__name__, unexpected=True)

        self._tasks.append(asyncio.create_task(repeat(), name=failure))

    async def _probe(self) -> None:
        self.metrics.ready.set(float(await self.backend.ready()))
        self.metrics.breaker.set(float(self.backend.breaker_open))

    async def _measure_lag(self) -> None:
        self.metrics.uncharged.set(await asyncio.to_thread(self.uncharged))

    async def _maintain(self) -> None:
        """Removes what an embedded log need no longer keep; it does so itself only where much is written."""
        if isinstance(self.log, EmbeddedLog):
            await asyncio.to_thread(self.log.maintain)

    async def _steer(self) -> None:
        """Holds the number of ads per answer at its target."""
        answered, shown = self.room.answered, self.room.shown
        if self.settings.ad_load is None or not answered:
            return
        self._ad_load = next_load(self._ad_load, shown / answered, answered, AD_LOAD_S, self.settings.ad_load)
        self.room.load = self._ad_load.load
        if answered >= self.settings.ad_load.least_answers:
            self.room.answered, self.room.shown = 0, 0
            path = self.settings.state_dir / AD_LOAD_FILE
            await asyncio.to_thread(replace_file, path, msgspec.json.encode(self._ad_load))

    def _watch(self) -> None:
        metrics, market = self.metrics, self.marketplace
        metrics.watch(metrics.in_flight, lambda: float(self.room.in_flight))
        metrics.watch(metrics.campaigns, lambda: float(len(market.index)))
        metrics.watch(metrics.ad_load, lambda: self.room.load)
        metrics.watch(metrics.unsynced, lambda: time.monotonic() - market.synced_at if market.synced_at else -1.0)


AD_LOAD_FILE = "ad-load.json"


def _read_ad_load(state_dir: Path) -> AdLoadState:
    """The controller's state of the process before; a new one where there is none that can be read."""
    with suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((state_dir / AD_LOAD_FILE).read_bytes(), type=AdLoadState)
    return AdLoadState()
