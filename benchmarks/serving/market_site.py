"""The market drill's platform: three routers, ledger workers, PostgreSQL and Kafka, which are killed and come back."""

from __future__ import annotations

import random
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.market_records import Kill, Market, Terms
from benchmarks.serving.mock_upstream import MODEL
from benchmarks.streaming.processes import DrillFailed, Process, Workspace
from serving.accounts.keys import BOOTSTRAP_VARIABLE, AccountStore, Role
from serving.accounts.publishers import PublisherStore
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import (
    Campaign,
    CampaignState,
    Creative,
    FrequencyCap,
    Pacing,
    Pricing,
    ReviewState,
    Targeting,
)
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.settings import SECRET_VARIABLE, derived
from streaming.kafka.log import KafkaLog
from streaming.topics import all_topics
from tests.support.kafka.broker import KafkaBroker
from tests.support.ports import free_ports
from tests.support.postgres import PostgresServer

ROUTERS = 3
PARTITIONS = 3
START_S = 120.0
CURRENCY = "EUR"
SHARES = {"news": 700, "forum": 333}
PLACEMENTS = {"news": "news", "news.sidebar": "news", "forum": "forum"}
ELSEWHERE = "own.page"
"""A placement of no publisher."""


class Keys:
    """The secrets of the drill: an administrator's, and those of publishers by placement and of advertisers."""

    def __init__(self) -> None:
        self.secret = secrets.token_urlsafe(48)
        self.admin = secrets.token_urlsafe(48)
        self.placements: dict[str, str] = {}
        self.advertisers: dict[str, str] = {}


def prepare(url: str, market: Market, keys: Keys, words: dict[str, str]) -> None:
    """Book the market in an empty database: publishers, placements, keys, and live campaigns with their `words`."""
    migrate(url)
    database, now = Database(url, pool_size=1), datetime.now(UTC)
    try:
        publishers = PublisherStore(database)
        for name, share in SHARES.items():
            publishers.create(name, share, now)
        for placement, publisher in PLACEMENTS.items():
            publishers.register(placement, publisher, now)
        accounts = AccountStore(database, [derived(keys.secret.encode(), "api keys")])
        for placement in (*PLACEMENTS, ELSEWHERE):
            owner = PLACEMENTS.get(placement, "")
            keys.placements[placement] = accounts.issue(Role.PUBLISHER, placement, now, publisher_id=owner).secret
        for advertiser in sorted({terms.advertiser for terms in market.campaigns.values()}):
            keys.advertisers[advertiser] = accounts.issue(
                Role.ADVERTISER, advertiser, now, advertiser_id=advertiser
            ).secret
        store = CampaignStore(database)
        for name, terms in market.campaigns.items():
            store.create(_campaign(name, terms, words[name], now), now)
            store.review(f"{name}-ad", ReviewState.APPROVED, now)
    finally:
        database.close()


def _campaign(name: str, terms: Terms, words: str, now: datetime) -> Campaign:
    title = f"{name.replace('-', ' ').title()} Offer"
    creative = Creative(id=f"{name}-ad", title=title, text=words, landing_url=f"https://{terms.advertiser}.example/")
    return Campaign(
        id=name,
        advertiser_id=terms.advertiser,
        name=title,
        category="drill",
        state=CampaignState.ACTIVE,
        creatives=(creative,),
        bid_micros=terms.bid,
        currency=CURRENCY,
        pricing=Pricing(terms.pricing),
        daily_budget_micros=terms.daily,
        total_budget_micros=terms.total,
        starts_at=now - timedelta(days=1),
        pacing=Pacing.ASAP,
        targeting=Targeting(keywords=(words.split(maxsplit=1)[0],)),
        campaign_caps=() if terms.cap is None else (FrequencyCap(impressions=terms.cap, hours=24),),
        created_at=now,
        updated_at=now,
    )


class Site:
    """The running platform."""

    def __init__(self, workspace: Workspace, server: PostgresServer, broker: KafkaBroker, keys: Keys) -> None:
        self.keys = keys
        self.database = workspace.database
        self.ports = free_ports(ROUTERS)
        self.log = KafkaLog(broker.settings())
        self.routers: list[Process] = []
        self.workers: list[Process] = []
        self.server, self.broker = server, broker
        self._workspace = workspace
        workspace.environment |= {SECRET_VARIABLE: keys.secret, BOOTSTRAP_VARIABLE: keys.admin}

    def start(self, upstream: int, workers: int) -> None:
        """Start the processes in front of a model server's port, and wait until the routers are ready."""
        self.log.create(all_topics(PARTITIONS))
        members = [f"{number}/{workers}" for number in range(workers)]
        self.workers = [self._workspace.worker("ledger", "--member", name) for name in members]
        self.start_workers()
        self.routers = [self._router(number, upstream) for number in range(ROUTERS)]
        for router in self.routers:
            router.start()
        for number in range(ROUTERS):
            self.wait_for(number)

    def wait_for(self, number: int) -> None:
        """Wait until a router is ready.

        Raises:
            DrillFailed: if it ends, or is not ready within START_S.
        """
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self.routers[number].ended()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[number]}/readyz", timeout=5) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise DrillFailed(f"router {number} is not ready after {START_S} s")

    def kill(self, what: str, away_s: float) -> Kill:
        """Kill a process, let it come back after some seconds, and return when that was."""
        began, number = time.time(), int(what.partition("-")[2] or 0)
        if what.startswith("router"):
            self.routers[number].kill(away_s)
        elif what.startswith("ledger"):
            self.workers[number].kill(away_s)
        elif what.startswith("broker"):
            self.broker.kill(number)
            time.sleep(away_s)
            self.broker.start()
        else:
            self.server.kill(hard=True)
            time.sleep(away_s)
            self.server.start()
        return Kill(what=what, at=began, back=time.time(), router=number if what.startswith("router") else -1)

    def stop_workers(self) -> None:
        """Take the ledger away."""
        for worker in self.workers:
            worker.end()

    def start_workers(self) -> None:
        """Bring the ledger back."""
        for worker in self.workers:
            worker.start()

    def _router(self, number: int, upstream: int) -> Process:
        command = [
            *("-m", "cli.main", "--log-level", "warning", "serve", "--port", str(self.ports[number]), "--no-demo"),
            *("--upstream", f"http://127.0.0.1:{upstream}/v1", "--model", MODEL, "--no-encoder", "--log", "kafka"),
            *("--state-dir", str(self._workspace.folder / f"router-{number}"), "--database", self.database),
            *("--trusted-proxies", "127.0.0.0/8", "--public-url", "https://market.example", "--currency", CURRENCY),
            *("--address-per-minute", "0", "--key-per-minute", "0"),
        ]
        return Process(f"router-{number}", command, self._workspace)


@contextmanager
def opened(folder: Path, brokers: int, market: Market, words: dict[str, str]) -> Iterator[Site]:
    """Start PostgreSQL and Kafka, and book the market; the routers are started by `Site.start`."""
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        broker = stack.enter_context(KafkaBroker(brokers, heap="256m"))
        workspace = Workspace(folder, broker.settings(delivery_s=5), server.create("market"))
        keys = Keys()
        prepare(workspace.database, market, keys, words)
        site = Site(workspace, server, broker, keys)
        try:
            yield site
        finally:
            for process in (*site.routers, *site.workers):
                process.end()


class PlannedKill(NamedTuple):
    """A kill once a share of the answers is there; the process comes back `away_s` seconds later."""

    share: float
    what: str
    away_s: float


def kill_plan(rounds: int, workers: int, brokers: int, seed: int) -> list[PlannedKill]:
    """Return the kills: in each round every router and worker, PostgreSQL and one broker, in random order."""
    chance = random.Random(seed)
    plan: list[str] = []
    for _ in range(rounds):
        targets = [*(f"router-{n}" for n in range(ROUTERS)), *(f"ledger-{n}" for n in range(workers)), "postgres"]
        targets.append(f"broker-{chance.randrange(brokers)}")
        chance.shuffle(targets)
        plan += targets
    return [PlannedKill((n + 1) / (len(plan) + 1), what, chance.uniform(0.2, 5.0)) for n, what in enumerate(plan)]
