"""`python -m benchmarks.serving.market`: is the market exact while everything under it is killed?

Three routers share PostgreSQL and Kafka. Readers behind a trusted proxy ask and click, advertisers report conversions,
and clients repeat what failed; meanwhile every router, the ledger's workers, PostgreSQL and Kafka brokers are killed
(SIGKILL) and come back. Then the ledger is away while answers flow as fast as the machine allows. Afterwards the books
are compared with what the clients sent and saw. Figures go to build/bench/market.json; the exit status is 1 if the
market is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import msgspec
import structlog
from rich.console import Console

from benchmarks.figures import machine_name, write_figures
from benchmarks.serving.market_books import read_books
from benchmarks.serving.market_check import compare, overruns
from benchmarks.serving.market_readers import Clients
from benchmarks.serving.market_records import Books, Journal, Market
from benchmarks.serving.market_site import ROUTERS, Site, kill_plan, opened
from benchmarks.serving.market_traffic import SMALL, Size, Traffic, market_of
from benchmarks.serving.mock_upstream import MockSettings, serve
from benchmarks.streaming.processes import DrillFailed
from mechanism.errors import AuctionError
from serving.database.engine import Database
from serving.ledger.worker import behind
from tests.support.kafka.java import BrokerMissing
from tests.support.postgres import PostgresMissing

MOST_OVERRUN = 0.01
"""The share of a day's budget by which serving may pass it."""
GAP_S = 0.004
"""Between two deltas of an answer, so that kills find answers half written."""
BOOKED_S = 300.0
"""How long the ledger may take to catch up."""


async def drill(
    site: Site, market: Market, size: Size, seed: int, console: Console
) -> tuple[Journal, Books, dict[str, object]]:
    """Run both parts; return what the clients saw, what the platform holds, and the times."""
    journal, began = Journal(), time.monotonic()
    model = MockSettings(gap_s=GAP_S, ads=True, spread=True)
    mock = await serve(0, model)
    await asyncio.to_thread(site.start, mock.sockets[0].getsockname()[1], size.workers)
    console.print(f"routers are ready after {time.monotonic() - began:.0f} s")
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        clients = Clients(session, site.ports, journal, seed)
        traffic = Traffic(site, clients, market)
        await traffic.with_kills(size, kill_plan(size.rounds, size.workers, size.brokers, seed))
        await _booked(site, clients)
        answers = len({reply.auction for reply in journal.replies})
        console.print(f"{answers} answers with {len(journal.kills)} kills after {time.monotonic() - began:.0f} s")
        model.gap_s = 0.0
        await asyncio.to_thread(site.stop_workers)
        away = time.monotonic()
        await traffic.without_ledger(size)
        away_s = time.monotonic() - away
        await asyncio.to_thread(site.start_workers)
        await _booked(site, clients)
        books = await read_books(clients, site.keys, site.database, site.log)
    mock.close()
    rushed = len({reply.auction for reply in journal.replies}) - answers
    figures: dict[str, object] = _counts(journal, books) | {
        "spent_share": _spent(market, books),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "away": _away(market, books)
        | {"seconds": round(away_s), "answers": rushed, "answers_per_s": round(rushed / away_s, 1)},
    }
    return journal, books, figures


async def _booked(site: Site, clients: Clients) -> None:
    """Wait until the log has every event of the routers, and the ledger has booked it.

    Raises:
        DrillFailed: if it has not within BOOKED_S.
    """
    end, empty = time.monotonic() + BOOKED_S, 0
    database = Database(site.database, pool_size=1)
    try:
        while empty < 2:
            waiting = [await clients.waiting(number) for number in range(ROUTERS)]
            left = sum((await asyncio.to_thread(behind, site.log, database)).values())
            empty = empty + 1 if sum(waiting) + left == 0 else 0
            if time.monotonic() > end:
                raise DrillFailed(f"after {BOOKED_S:.0f} s, {waiting} events are in spools and {left} are not booked")
            await asyncio.sleep(0.5)
    finally:
        database.close()


def _counts(journal: Journal, books: Books) -> dict[str, object]:
    return {
        "answers": len({reply.auction for reply in journal.replies if reply.whole}),
        "broken_answers": len({reply.auction for reply in journal.replies if not reply.whole}),
        "clicks": len({link.click for link in journal.clicks if link.confirmed}),
        "conversions": len(journal.conversions),
        "charges": sum(not charge.invalid for charge in books.charges),
        "charged_micros": sum(charge.charged for charge in books.charges),
        "publisher_micros": sum(charge.publisher_micros for charge in books.charges),
        "invalid": Counter(charge.invalid for charge in books.charges if charge.invalid),
        "kills": Counter(kill.what.partition("-")[0] for kill in journal.kills),
        "shown": Counter(ad.campaign for reply in journal.replies for ad in reply.ads),
        "retries": journal.retries,
        "unanswered": journal.unanswered,
    }


def _away(market: Market, books: Books) -> dict[str, object]:
    """Return the overrun of the part without the ledger."""
    own = {name: terms for name, terms in market.campaigns.items() if name.startswith("away")}
    charges = [charge for charge in books.charges if charge.campaign in own]
    return {"overrun_share": round(max(overruns(own, charges).values(), default=0.0), 4)}


def _spent(market: Market, books: Books) -> dict[str, float]:
    """Return the share of each budget that was spent."""
    spent = Counter[str]()
    for charge in books.charges:
        spent[charge.campaign] += charge.charged
    budgets = {name: terms.daily or terms.total for name, terms in market.campaigns.items()}
    return {name: round(spent[name] / budget, 3) for name, budget in budgets.items() if budget}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.market", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--small", action="store_true", help="about a minute, in place of ten")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--overrun", type=float, default=MOST_OVERRUN, help="most overrun, as a share of a budget")
    parser.add_argument("--folder", type=Path, help="keep state, logs and records here")
    parser.add_argument("--out", type=Path, default=Path("build/bench/market.json"))
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    console, size = Console(stderr=True), SMALL if given.small else Size()
    market, words = market_of(size)
    try:
        with ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(prefix="llm-auction-market-")
            folder = given.folder or Path(stack.enter_context(temporary))
            folder.mkdir(parents=True, exist_ok=True)
            site = stack.enter_context(opened(folder, size.brokers, market, words))
            journal, books, counts = asyncio.run(drill(site, market, size, given.seed, console))
            write_figures(folder / "records.json", {"journal": journal, "books": books})
    except (BrokerMissing, PostgresMissing) as missing:
        console.print(str(missing))
        return 2
    except AuctionError as error:
        console.print(str(error))
        return 1
    found = compare(market, journal, books)
    write_figures(given.out, msgspec.structs.asdict(found) | counts | {"machine": machine_name()})
    faults = found.faults(given.overrun)
    verdict = f"WRONG: {', '.join(faults)}" if faults else "exact"
    console.print(
        f"{verdict}: {counts['answers']} answers, {counts['clicks']} clicks, {counts['charges']} charges, "
        f"{found.doubled} doubled, {found.caps_broken} caps broken, overrun {found.overrun_share:.2%}, "
        f"payouts wrong by {found.payout_difference_micros} micros"
    )
    console.print(f"figures: {given.out}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
