"""The market drill's two parts: traffic while processes are killed, and the highest rate while the ledger is away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence

import msgspec

from benchmarks.serving.market_readers import Clients, Question
from benchmarks.serving.market_records import Market, Reply, Terms
from benchmarks.serving.market_site import ELSEWHERE, PLACEMENTS, ROUTERS, SHARES, Keys, PlannedKill, Site

MAIN, AWAY = "running trail shoes for every marathon", "harbour sailing jacket for every boat"
"""The texts of the campaigns of each part; the first word is the keyword by which the parts are kept apart."""
CLICK_RATE, AWAY_CLICK_RATE = 0.35, 0.05
"""Of readers in the two parts. Routers predict 0.02 until the ledger has counted clicks."""
SHORTEST_READ_S = 1.4
"""Clicks within a second of the link are invalid."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a drill.

    answers    of the first part, during which `rounds` of kills take every process once each
    readers    that the first part has
    clients    readers at a time in the first part, questions at a time in the second
    away_answers   of the second part
    workers, brokers   numbers of ledger workers and Kafka brokers
    budget, away_budget   clicks that a day's budget pays, about two thirds of those that come without it
    """

    answers: int = 1_800
    rounds: int = 3
    readers: int = 40
    clients: int = 12
    away_answers: int = 9_000
    workers: int = 2
    brokers: int = 3
    budget: int = 220
    away_budget: int = 200


SMALL = Size(
    answers=150, rounds=1, readers=4, clients=6, away_answers=400, workers=1, brokers=1, budget=20, away_budget=10
)


def market_of(size: Size) -> tuple[Market, dict[str, str]]:
    """Return the market, and the words of each campaign.

    Bids are odd numbers of micros, so that a budget runs out in the middle of a price and shares are rounded. The model
    shows ads by their bids, so that the campaigns with a day's budget have most of the clicks.
    """
    high, middle, low = 600_011, 200_003, 70_001
    main = {
        "day": Terms(advertiser="north", bid=high, daily=size.budget * high + high // 3),
        "impressions": Terms(advertiser="north", bid=middle, pricing="impression", total=size.budget * middle // 8),
        "capped": Terms(advertiser="south", bid=middle, cap=3),
        "capped-day": Terms(advertiser="south", bid=middle, cap=3, daily=size.budget * middle),
        "capped-impressions": Terms(advertiser="east", bid=middle, pricing="impression", cap=3),
        "open": Terms(advertiser="east", bid=low),
    }
    total = size.away_budget * middle // 8
    away = {
        "away-day": Terms(advertiser="west", bid=high, daily=size.away_budget * high + high // 3),
        "away-impressions": Terms(advertiser="west", bid=middle, pricing="impression", total=total),
        "away-open": Terms(advertiser="west", bid=low),
    }
    shares = {placement: (publisher, SHARES[publisher]) for placement, publisher in PLACEMENTS.items()}
    return Market(campaigns=main | away, shares=shares), dict.fromkeys(main, MAIN) | dict.fromkeys(away, AWAY)


class Traffic:
    """Readers and advertisers on a site."""

    def __init__(self, site: Site, clients: Clients, market: Market) -> None:
        self._site, self._clients, self._market = site, clients, market
        self._chance = clients.chance
        self._later: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._number = self._answers = 0

    async def with_kills(self, size: Size, plan: Sequence[PlannedKill]) -> None:
        """Let readers browse while processes are killed as planned, and wait for their clicks and conversions."""
        kills = asyncio.create_task(self._kill(plan, size.answers))
        await asyncio.gather(*(self._browse(size, kills) for _ in range(size.clients)))
        await kills
        await self._finish()

    async def without_ledger(self, size: Size) -> None:
        """Ask as fast as the routers answer, and wait for the clicks."""
        end = self._answers + size.away_answers
        await asyncio.gather(*(self._rush(end) for _ in range(size.clients)))
        await self._finish()

    async def _kill(self, plan: Iterable[PlannedKill], answers: int) -> None:
        """Kill at shares of the answers, so that all kills happen under traffic, however slow the machine is."""
        for share, what, away_s in plan:
            while self._answers < share * answers:
                await asyncio.sleep(0.05)
            self._clients.journal.kills.append(await asyncio.to_thread(self._site.kill, what, away_s))

    async def _browse(self, size: Size, kills: asyncio.Task[None]) -> None:
        """Ask as one reader after the other: in one tab, or in three at once."""
        chance, clients = self._chance, self._clients
        while self._answers < size.answers or not kills.done():
            number = chance.randrange(size.readers)
            reader = "" if chance.random() < 0.15 else f"reader-{number}"
            tabs = [self._question(MAIN, reader, number) for _ in range(ROUTERS if chance.random() < 0.25 else 1)]
            for question, reply in zip(tabs, await asyncio.gather(*map(clients.ask, tabs)), strict=True):
                if reply is not None:
                    self._answers += 1
                    self._react(question, reply)
            await asyncio.sleep(chance.expovariate(1 / 0.3))

    async def _rush(self, end: int) -> None:
        while self._answers < end:
            question = self._question(AWAY, "", 0, plain=True)
            reply = await self._clients.try_to_ask(question, self._number % ROUTERS)
            self._answers += reply is not None
            if reply is not None and reply.ads and self._chance.random() < AWAY_CLICK_RATE:
                self._do_later(self._click(question, reply, self._chance.expovariate(1 / 2.0)))

    def _question(self, words: str, reader: str, number: int, *, plain: bool = False) -> Question:
        self._number += 1
        chance, placement = self._chance, self._chance.choice((*PLACEMENTS, ELSEWHERE))
        # an unknown reader has an address of its own each time, a known one keeps it
        address = f"198.18.{number // 200}.{number % 200 + 1}" if reader else _address(self._number)
        return Question(
            text=f"Number {self._number}: which {words.partition(' for ')[0]} should I buy before the weekend?",
            secret=self._keys.placements[placement],
            placement=placement,
            reader=reader,
            address=address,
            stream=not plain and chance.random() < 0.7,
            once=not plain,
            leaves=not plain and chance.random() < 0.05,
        )

    @property
    def _keys(self) -> Keys:
        return self._site.keys

    def _react(self, question: Question, reply: Reply) -> None:
        """Click, ask again with the same key as a client that lost the answer, or go on."""
        chance = self._chance
        if chance.random() < 0.15:
            self._do_later(self._repeat(question))
        if reply.ads and chance.random() < CLICK_RATE:
            self._do_later(self._click(question, reply, chance.expovariate(1 / 1.5)))

    async def _repeat(self, question: Question) -> None:
        for router in self._chance.sample(range(ROUTERS), 2):
            self._clients.journal.retries += 1
            await self._clients.try_to_ask(question, router)

    async def _click(self, question: Question, reply: Reply, delay_s: float) -> None:
        """Follow the first link, now and then twice or by a program; some of these readers buy."""
        chance, ad = self._chance, reply.ads[0]
        program = question.once and chance.random() < 0.08
        await asyncio.sleep(SHORTEST_READ_S + delay_s)
        link = await self._clients.follow(reply, ad, question.address, program=program)
        if chance.random() < 0.2 and not program:
            self._clients.journal.retries += 1
            await self._clients.try_to_follow(ad, question.address, chance.randrange(ROUTERS), key=reply.key)
        if link.first and link.confirmed and not program and question.once and chance.random() < 0.4:
            secret = self._keys.advertisers[self._market.campaigns[ad.campaign].advertiser]
            await self._clients.convert(link, secret, chance.randint(1, 90) * 1_000_003, twice=chance.random() < 0.5)

    def _do_later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def _finish(self) -> None:
        """Wait for clicks and conversions under way; an error of one is the drill's."""
        while self._later:
            await asyncio.wait(self._later)
        if self._failures:
            raise self._failures[0]


def _address(number: int) -> str:
    return f"100.{64 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
