"""`llm-auction users`: simulated users ask a router and follow its links, until SIGTERM or Ctrl+C."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import structlog
import typer

from cli.exits import stop_event

if TYPE_CHECKING:
    from simulator.users.asking import Users
    from simulator.users.population import Population

log = structlog.get_logger(__name__)

REPORT_S = 30.0


def users(
    url: Annotated[str, typer.Option(help="The router's address.")] = "http://localhost:8080",
    rate: Annotated[float, typer.Option(help="Questions a second at the users' initial trust.")] = 2.0,
    key: Annotated[
        str,
        typer.Option(
            help="A publisher's API key; none if the router answers anonymous requests.", envvar="LLM_AUCTION_KEY"
        ),
    ] = "",
    consenting: Annotated[float, typer.Option(help="Share of users who consent to the use of their data.")] = 0.9,
    day: Annotated[float, typer.Option(help="Seconds that a simulated day lasts, in which ad fatigue fades.")] = 600.0,
    words: Annotated[float, typer.Option(help="Reading speed in words a minute.")] = 240.0,
    pause: Annotated[float, typer.Option(help="Mean seconds between two questions of a user.")] = 5.0,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps the users' trust and fatigue between runs. Default: none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the users' questions and clicks.")] = 0,
    questions: Annotated[
        Literal["templates", "everyday"],
        typer.Option(help="What they ask: what tiny knows, or anything."),
    ] = "templates",
) -> None:
    """Ask the built-in world's questions or everyday ones, read the answers and follow links by its click model."""
    from simulator.everyday_world import EverydayWorld
    from simulator.users.asking import AskingSettings, Users
    from simulator.users.population import Population, PopulationSettings
    from simulator.users.reading import Pace
    from simulator.world import World

    world = EverydayWorld() if questions == "everyday" else World()
    stop = stop_event()
    asking = AskingSettings(url=url, rate=rate, key=key, pause_s=pause, pace=Pace(words))
    # the start time is part of the seed, so that a restart does not repeat the same users in the same order
    population = Population(world, PopulationSettings(consenting, day), seed + time.time_ns() % 2**32)
    if state is not None:
        population.load(state)

    async def main() -> None:
        crowd = Users(population, asking)
        reporting = asyncio.create_task(log_activity(crowd, population, state))
        await crowd.run(stop.is_set)
        reporting.cancel()

    asyncio.run(main())
    if state is not None:
        population.save(state)


async def log_activity(crowd: Users, population: Population, state: Path | None) -> None:
    """Log the counts so far and save the users' state, every REPORT_S seconds."""
    while True:
        await asyncio.sleep(REPORT_S)
        log.info("users.activity", trust=round(population.trust, 3), **dict(crowd.counts))
        if state is not None:
            population.save(state)
