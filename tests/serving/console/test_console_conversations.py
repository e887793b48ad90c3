"""Ten conversations in a browser: ads follow the need, fade, stop at the cap, and vanish when talk turns to grief."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from mechanism.markers import render_marker
from mechanism.types import Context
from serving.campaigns.catalogue import DEMO_PATH, Catalogue, CatalogueRow, read_catalogue, write_catalogue

Start = Callable[..., Any]
Visit = Callable[..., Any]
CAP = 3
NO_AD = ""
THINGS = {
    "Peakline": ("Peakline Tents", "light tents for hiking and camping trips"),
    "Outnight": ("Outnight Shelters", "tents and shelters for camping in the mountains"),
    "Strider": ("Strider Running Shoes", "running shoes for road and trail"),
    "Roastery": ("Roastery Coffee Beans", "fresh coffee beans for espresso at home"),
    "Slumber": ("Slumber Mattresses", "mattresses for back pain and good sleep"),
    "Voyager": ("Voyager Suitcases", "light suitcases and luggage for long trips"),
}
TENT, TENT_2 = "Which tent is good for camping?", "Which of them is the lightest?"
SHOES = "Which running shoes should I buy?"
COFFEE = "I am looking for coffee beans for espresso."
MATTRESS = "Which mattress should I buy for my bedroom?"
LUGGAGE = "What suitcase do you recommend for a long trip?"
HISTORY, HELLO = "Who was Napoleon?", "hello"
DEATH = "My mother died last week and I cannot stop crying."
FUNERAL = "How do I tell the children about the funeral?"
SUICIDE = "I want to kill myself."
ANY_TENT = "Peakline or Outnight"

CONVERSATIONS = {
    "follows the need": [(TENT, ANY_TENT), (SHOES, "Strider"), (COFFEE, "Roastery"), (HISTORY, NO_AD)],
    "understands a follow-up": [(TENT, ANY_TENT), (TENT_2, ANY_TENT), (HISTORY, NO_AD), (HELLO, NO_AD)],
    "has no need": [(HELLO, NO_AD), (HISTORY, NO_AD), ("What is the capital of France?", NO_AD), (HELLO, NO_AD)],
    "stops at the cap": [(SHOES, "Strider"), (COFFEE, "Roastery"), (LUGGAGE, "Voyager"), (MATTRESS, NO_AD)],
    "stays at the cap": [(TENT, ANY_TENT), (SHOES, "Strider"), (COFFEE, "Roastery"), (LUGGAGE, NO_AD), (SHOES, NO_AD)],
    "turns to grief": [(TENT, ANY_TENT), (DEATH, NO_AD), (FUNERAL, NO_AD), (LUGGAGE, NO_AD)],
    "begins with grief": [(DEATH, NO_AD), (LUGGAGE, NO_AD), (COFFEE, NO_AD), (SHOES, NO_AD)],
    "turns to a crisis": [
        *((SHOES, "Strider"), (SUICIDE, NO_AD), (COFFEE, NO_AD), (SHOES, NO_AD), (TENT, NO_AD), (LUGGAGE, NO_AD)),
        *((MATTRESS, NO_AD), (COFFEE, NO_AD)),
    ],
    "fades": [(TENT, "Outnight"), (TENT_2, "Peakline"), (TENT, "Outnight"), (SHOES, NO_AD)],
    "comes back to a need": [
        *((HELLO, NO_AD), (COFFEE, "Roastery"), (HISTORY, NO_AD), (MATTRESS, "Slumber"), (LUGGAGE, "Voyager")),
    ],
}


@pytest.fixture
def things(tmp_path: Path) -> Catalogue:
    listed = [
        CatalogueRow(
            id=f"A{n}",
            title=title,
            text=text,
            advertiser=advertiser,
            landing_url=f"{DEMO_PATH}A{n}",
            bid_micros=110_000 if advertiser == "Outnight" else 100_000,
            currency="EUR",
            category=title.split()[-1].lower(),
        )
        for n, (advertiser, (title, text)) in enumerate(THINGS.items(), start=1)
    ]
    write_catalogue(listed, tmp_path / "things.jsonl")
    return read_catalogue(tmp_path / "things.jsonl")


def answers(context: Context) -> Iterator[str]:
    """Write a link to the candidate that shares most words with the conversation, of these the one that bids most."""
    said = " ".join([*(text for role, text in context.turns if role == "user"), context.query]).lower()
    kinds = {c.ad.id: said.rfind(c.ad.category.rstrip("s")[:4]) for c in context.candidates}
    known = {"Shelters": said.rfind("tent"), "Beans": said.rfind("coffee"), "Suitcases": said.rfind("suitcase")}
    for c in context.candidates:
        kinds[c.ad.id] = max(kinds[c.ad.id], known.get(c.ad.title.split()[-1], -1))
    best = max(context.candidates, key=lambda c: (kinds[c.ad.id], c.bid), default=None)
    yield "Here is some advice. "
    if best is not None:
        yield f"Have a look at {render_marker(best.ad)}."


@pytest.mark.parametrize("name", list(CONVERSATIONS))
def test_a_conversation_in_the_console(start: Start, visit: Visit, things: Catalogue, name: str) -> None:
    from inference.encoder import shared_encoder

    router = start(
        script=answers,
        encoder=shared_encoder(),
        catalogue=things,
        relevance_floor=0.2,
        conversation_ads=CAP,
        encode_s=10.0,
    )
    tab = visit(router)
    page = tab.open()
    for number, (question, wanted) in enumerate(CONVERSATIONS[name]):
        tab.ask(question)
        links = page.locator(".assistant").nth(number).locator(".ad a")
        expect(links).to_have_count(1 if wanted else 0)
        if wanted:
            assert links.inner_text().split()[0] in wanted.split(" or "), (question, links.inner_text())
