"""`make bench-floor`: what the relevance floor costs, and what it keeps away, with the built-in world's users.

The same users ask everyday questions of a router with the floor and of one without it, in sessions that end by their
trust. A fixed policy answers: the question's own plain answer, then a sentence with the offer of the highest bid times
cosine, if there is one. Clicks follow the simulator's click model, with fatigue and trust.

needless_with_ads  share of the questions without a need whose answer has an ad
need_with_ads      share of the questions with a need whose answer has an ad
revenue            micros that clicks of a thousand questions cost, and of all sessions together
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.figures import machine_name, write_figures
from benchmarks.serving.builtin_router import builtin_router, offers_for
from inference.encoder import shared_encoder
from mechanism.markers import parse, render_marker
from serving.auction.offers import Offer
from serving.router import Router
from simulator.everyday_world import EverydayWorld
from simulator.questions import everyday_questions
from simulator.users.population import Population, PopulationSettings
from simulator.users.reading import Read
from simulator.world import Query

OUT = Path("build/bench/floor.json")
SESSIONS = 400
SECONDS = 0.2
"""Time between two questions of all users together."""
SEED = 7


def main() -> None:
    """Measure both, write `build/bench/floor.json` and print the table."""
    texts = {text for q in everyday_questions() for text in (q.text, *(t for role, t in q.turns if role == "user"))}
    shared_encoder().encode(sorted(texts))  # in batches
    figures: dict[str, Any] = {"machine": machine_name(), "sessions": SESSIONS}
    for name, floor in (("on", None), ("off", 0.0)):
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = asyncio.run(_measure(Path(folder), floor))
    write_figures(OUT, figures)
    print("| floor | " + " | ".join(figures["on"]) + " |\n|" + " --- |" * (len(figures["on"]) + 1))
    for name in ("on", "off"):
        print(f"| {name} | " + " | ".join(map(str, figures[name].values())) + " |")


async def _measure(folder: Path, floor: float | None) -> dict[str, Any]:
    async with builtin_router(folder, floor) as router:
        population = Population(EverydayWorld(), PopulationSettings(), SEED)
        counts = Counter[str]()
        for _ in range(SESSIONS):
            profile = population.draw_user()
            while True:
                query = population.draw_query(profile)
                await _ask(router, population, query, counts)
                if not population.comes_back(profile):
                    break
    with_need, questions = counts["need"], counts["questions"]
    return {
        "questions": questions,
        "need_with_ads": round(counts["need shown"] / with_need, 3),
        "needless_with_ads": round((counts["shown"] - counts["need shown"]) / (questions - with_need), 3),
        "clicks": counts["clicks"],
        "revenue_per_thousand": round(1_000 * counts["micros"] / questions),
        "revenue": counts["micros"],
        "trust": round(population.trust, 3),
    }


async def _ask(router: Router, population: Population, query: Query, counts: Counter[str]) -> None:
    offer = await _best(router, query)
    counts["questions"] += 1
    counts["need"] += bool(query.category)
    counts["shown"] += offer is not None
    counts["need shown"] += offer is not None and bool(query.category)
    ads = () if offer is None else (offer.ad,)
    raw = _answers()[query.text] + "".join(f" Consider {render_marker(ad)} for this." for ad in ads)
    read = Read(parse(raw, ads), ads, {})
    for ad_id in population.clicks(query, read, str(counts["questions"]), SECONDS * counts["questions"]):
        assert offer is not None
        assert ad_id == offer.ad.id
        counts["clicks"] += 1
        counts["micros"] += offer.bid


async def _best(router: Router, query: Query) -> Offer | None:
    """Return the offer that the fixed policy shows."""
    asked = [*(text for role, text in query.turns if role == "user"), query.text][-3:]
    offers = await offers_for(router, asked, list(shared_encoder().encode(asked)))
    return max(offers, key=lambda offer: offer.bid * offer.relevance, default=None)


@cache
def _answers() -> dict[str, str]:
    return {question.text: question.answer for question in everyday_questions()}


if __name__ == "__main__":
    main()
