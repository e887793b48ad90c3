"""Traffic for the loop's drill: simulated users ask, a policy answers, and both go to the real event log.

There is no HTTP and no waiting: time is event time, and answers are generated in batches. Everything behind the log
(judge, lake worker, tables) is real. `simulator.users` decides what is clicked, by a truth that no trainer sees.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.streaming.event_samples import auction_id, generated_interaction
from judge.rules import RuleJudge
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import AdId, Context, Generation
from simulator.users.population import Population, PopulationSettings
from simulator.users.reading import Pace, Read
from simulator.world import Query, World
from streaming.codec import encode, topic_of
from streaming.events import (
    AnyEvent,
    Click,
    Interaction,
    Reader,
    ReaderProfile,
    Sampling,
    Span,
    click_id_of,
)
from streaming.lake import TrainingSet
from streaming.log import EventLog
from streaming.pseudonyms import pseudonym
from streaming.workers.judge import JudgeTask
from streaming.workers.lake import LakeSettings, LakeTask
from streaming.workers.loop import Worker
from streaming.workers.task import Task

BATCH = 50
MAX_ADS = 3
RETURN_S = 300.0
"""Seconds after which a returning user asks again."""
if TYPE_CHECKING:
    from inference.policy import Policy

CURRENCY = "USD"
_KEY = b"the loop drill's key of pseudonyms"


@dataclass(frozen=True, slots=True)
class Server:
    """A version that answers; `slowed` multiplies the time that each answer takes."""

    policy: Policy
    digest: str
    slowed: float = 1.0


@dataclass(slots=True)
class Traffic:
    """The world's clock and its users. `every_s` is the mean event time between two questions, in seconds."""

    world: World
    population: Population
    now: datetime
    candidates: int = 20
    every_s: float = 60.0
    number: int = 0
    _returning: list[tuple[float, str]] = field(default_factory=list)

    @classmethod
    def begin(cls, at: datetime, profiles: int, candidates: int, seed: int) -> Traffic:
        """Start a world of `profiles` users at a time, with the texts of their questions and interests encoded."""
        from inference.encoder import shared_encoder

        world = World(seed, profiles)
        people = Population(world, PopulationSettings(day_s=86_400.0), seed)
        shared_encoder().encode([q.text for q in world.train_queries])
        shared_encoder().encode([", ".join(p.interests) for p in world.profiles])
        return cls(world, people, at, candidates)

    def serve(self, server: Server, count: int, log: EventLog) -> list[AnyEvent]:
        """Answer `count` questions, click, append the events durably to the log, and return them."""
        events: list[AnyEvent] = []
        while count > 0:
            questions = [self._next_question() for _ in range(min(BATCH, count))]
            count -= len(questions)
            events += self._answer(server, questions)
        put(log, events)
        return events

    def _next_question(self) -> tuple[datetime, Query]:
        """Return the next question: of a returning user if one is due, else of a new one."""
        self.now += timedelta(seconds=self.every_s * float(self.population.rng.exponential()))
        if self._returning and self._returning[0][0] <= self.now.timestamp():
            user = heapq.heappop(self._returning)[1]
            return self.now, self.population.draw_query(next(p for p in self.world.profiles if p.id == user))
        return self.now, self.population.draw_query(self.population.draw_user())

    def _answer(self, server: Server, questions: Sequence[tuple[datetime, Query]]) -> list[AnyEvent]:
        rng = self.population.rng
        contexts = [self.world.sample_context(query, rng, self.candidates) for _, query in questions]
        began = time.process_time()
        settings = replace(server.policy.sampling, max_ads=MAX_ADS)
        seed = int(rng.integers(2**31))
        answers = [own[0] for own in server.policy.generate(contexts, 1, seed, settings)]
        spent = time.process_time() - began
        pause = spent * (server.slowed - 1.0)
        time.sleep(pause)
        seconds = (spent + pause) / len(questions)
        events: list[AnyEvent] = []
        for (at, query), context, generation in zip(questions, contexts, answers, strict=True):
            self.number += 1
            consents = self.population.consents(query.profile)
            event = self._interaction(server, at, context, generation, seed, seconds, consents)
            events += [event, *self._clicks(query, context, generation, event)]
            if self.population.comes_back(query.profile):
                heapq.heappush(self._returning, (at.timestamp() + RETURN_S, query.profile.id))
        return events

    def _interaction(
        self,
        server: Server,
        at: datetime,
        context: Context,
        generation: Generation,
        seed: int,
        seconds: float,
        consents: bool,
    ) -> Interaction:
        settings = server.policy.sampling
        sampling = Sampling(
            seed=seed,
            max_ads=MAX_ADS,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_new_tokens=settings.max_new_tokens,
        )
        return generated_interaction(
            auction_id(self.number, at),
            at,
            context,
            generation,
            sampling,
            server.digest,
            currency=CURRENCY,
            reader=_reader(context, generation) if consents else None,
            answer_s=seconds,
        )

    def _clicks(self, query: Query, context: Context, generation: Generation, event: Interaction) -> list[Click]:
        by_id = {c.ad.id: c.ad for c in context.candidates}
        seen = Read(generation.answer, tuple(by_id[ad] for ad in generation.answer.shown()), {})
        clicked = self.population.clicks(query, seen, event.auction_id, event.occurred_at.timestamp())
        return [click(event, ad, Pace().until_click(seen.words_before(ad), self.population.rng)) for ad in clicked]


def click(event: Interaction, ad: AdId, after_s: float) -> Click:
    """Return a valid click on an ad of an answer."""
    price = next(shown.price_micros for shown in event.shown if shown.ad_id == ad)
    campaign = next(candidate.campaign_id for candidate in event.candidates if candidate.ad_id == ad)
    return Click(
        occurred_at=event.occurred_at + timedelta(seconds=after_s),
        click_id=click_id_of(event.auction_id, ad),
        auction_id=event.auction_id,
        ad_id=ad,
        campaign_id=campaign,
        verdict="valid",
        price_micros=price,
        currency=event.currency,
    )


def shuffled(events: Sequence[AnyEvent], rng: np.random.Generator) -> list[AnyEvent]:
    """Return the same answers with as many clicks on random shown ads, as a click farm would leave them."""
    answers = [event for event in events if isinstance(event, Interaction)]
    delays = [
        (event.occurred_at - at[event.auction_id]).total_seconds()
        for at in [{answer.auction_id: answer.occurred_at for answer in answers}]
        for event in events
        if isinstance(event, Click)
    ]
    shown_ads = [(answer, shown.ad_id) for answer in answers for shown in answer.shown]
    hit = rng.permutation(len(shown_ads))[: len(delays)]
    return [*answers, *(click(*shown_ads[int(i)], delay) for i, delay in zip(hit, delays, strict=True))]


def revenue(events: Sequence[AnyEvent]) -> list[float]:
    """Return the points paid for each answer."""
    paid = {event.auction_id: 0.0 for event in events if isinstance(event, Interaction)}
    for event in events:
        if isinstance(event, Click):
            paid[event.auction_id] += event.price_micros / MICROS_PER_POINT
    return list(paid.values())


def run_workers(log: EventLog, lake: str, events: Sequence[AnyEvent], window_s: float, within_s: float = 600.0) -> None:
    """Run the judge and the lake worker until they have processed all events of a log.

    Raises:
        TimeoutError: if they have not after `within_s` seconds.
    """
    stop = threading.Event()
    tasks: tuple[Task, ...] = (
        JudgeTask(log, RuleJudge()),
        LakeTask(log, lake, LakeSettings(commit_s=0.5, quiet_s=1.0, disorder_s=0.0)),
    )
    workers = [threading.Thread(target=Worker(task, log, poll_s=0.1).run, args=(stop,)) for task in tasks]
    for worker in workers:
        worker.start()
    try:
        clicks = sum(isinstance(event, Click) for event in events)
        end = time.monotonic() + within_s
        appended_at = datetime.now(UTC)
        while True:
            found = TrainingSet(lake, window_s)
            totals, reached = found.totals(), found.watermark()
            complete = totals.judged >= len(events) - clicks and totals.clicks >= clicks
            if complete and reached is not None and reached >= appended_at:
                break
            if time.monotonic() > end:
                raise TimeoutError(f"{totals} after {within_s:.0f} s, of {len(events)} events")
            time.sleep(0.2)
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def put(log: EventLog, events: Sequence[AnyEvent]) -> None:
    """Append events durably, in the order of their event time."""
    producer = log.producer()
    for event in sorted(events, key=lambda event: event.occurred_at):
        producer.append(topic_of(event), event.key.encode(), encode(event))
    producer.flush(60.0)
    producer.close()


def _reader(context: Context, generation: Generation) -> Reader:
    profile, answer = context.profile, generation.answer
    personal: dict[str, Any] = {}
    if profile is not None:
        about = ReaderProfile(
            age=profile.age,
            gender=profile.gender,
            occupation=profile.occupation,
            location=profile.location,
            interests=profile.interests,
            history=profile.history,
        )
        personal = {"user_id": pseudonym(profile.id, _KEY), "profile": about}
    spans = tuple(Span(i.ad_id, i.start, i.end) for i in answer.insertions)
    return Reader(query=context.query, raw=answer.raw, text=answer.text, spans=spans, **personal)
