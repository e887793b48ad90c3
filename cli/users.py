"""`llm-auction users`: simulated users ask a router and follow its links, until they are told to stop."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from cli.worker import stopped

if TYPE_CHECKING:
    from simulator.users.asking import Users
    from simulator.users.population import Population

log = structlog.get_logger(__name__)

REPORT_S = 30.0


def users(
    url: Annotated[str, typer.Option(help="The router's address.")] = "http://localhost:8080",
    rate: Annotated[float, typer.Option(help="Questions a second, while users trust as at the start.")] = 2.0,
    key: Annotated[
        str, typer.Option(help="A publisher's API key; none where anybody may chat.", envvar="LLM_AUCTION_KEY")
    ] = "",
    consenting: Annotated[float, typer.Option(help="Share of users who consent to the use of their data.")] = 0.9,
    day: Annotated[float, typer.Option(help="Seconds in which a simulated day passes; fatigue fades by it.")] = 600.0,
    words: Annotated[float, typer.Option(help="Words a minute that they read.")] = 240.0,
    pause: Annotated[float, typer.Option(help="Mean seconds between two questions of one user.")] = 5.0,
    state: Annotated[
        Path | None, typer.Option(help="File of what users carry from answer to answer; nothing is kept if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides who comes and what they click.")] = 0,
) -> None:
    """Ask as the people of the built-in world do, read the answers and click what they like."""
    from simulator.users.asking import AskingSettings, Users
    from simulator.users.population import Population, PopulationSettings
    from simulator.users.reading import Pace
    from simulator.world import World

    stop = stopped()
    asking = AskingSettings(url=url, rate=rate, key=key, pause_s=pause, pace=Pace(words))
    # Another start is another day: the same people do not come in the same order again.
    population = Population(World(), PopulationSettings(consenting, day), seed + time.time_ns() % 2**32)
    if state is not None:
        population.load(state)

    async def main() -> None:
        crowd = Users(population, asking)
        reporting = asyncio.create_task(report(crowd, population, state))
        await crowd.run(stop.is_set)
        reporting.cancel()

    asyncio.run(main())
    if state is not None:
        population.save(state)


async def report(crowd: Users, population: Population, state: Path | None) -> None:
    """Says now and then what has happened, and keeps what users carry."""
    while True:
        await asyncio.sleep(REPORT_S)
        log.info("users", trust=round(population.trust, 3), **dict(crowd.counts))
        if state is not None:
            population.save(state)
