"""The prompt: renders a context as chat messages, identically for training, serving and evaluation.

Candidates keep the order of the context, which the caller fixes so that a server's prefix cache can work. Bids are
shown in whole points. Titles are expected to be clean (`mechanism.sanitize`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mechanism.errors import ConfigError
from mechanism.markers import render_marker
from mechanism.types import Ad, Candidate, Context, Micros, Profile

MICROS_PER_POINT: Micros = 10_000
"""Micros of one bid point, the unit of prompts and result tables: a hundredth of the currency's unit."""
DESCRIBED_WORDS = 12
"""Words of an ad's description, category and text together, that a brief prompt shows."""


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """How a prompt is written.

    `instructions` is "full" for instruction-following models that were not trained on the format, "short" for models
    that were, and "brief" for `tiny`; `described` puts the ad's text and category before the bid in a brief line.
    `ad_load` multiplies every bid before it is shown, which raises or lowers the number of ads at run time, without
    retraining. An ad load that is negative or not finite and a `max_points` below 1 are ConfigErrors.
    """

    instructions: Literal["full", "short", "brief"] = "full"
    ad_load: float = 1.0
    max_points: int = 100
    described: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ad_load) and self.ad_load >= 0):
            raise ConfigError("prompt.ad_load", self.ad_load, "give a finite number >= 0 (1 shows bids as they are)")
        if self.max_points < 1:
            raise ConfigError("prompt.max_points", self.max_points, "give a whole number >= 1")


FULL_INSTRUCTIONS = """You answer the user's question helpfully and truthfully in two to four sentences. Some \
sponsored offers are listed below, each with the bid its advertiser pays for a click. Where an offer really fits the \
question, weave it into a sentence of the answer, written exactly as @Ad Title@[Ad-ID]. Among offers that fit \
equally well prefer the higher bid. Use no offer twice, never more than two, and none at all if \
nothing fits. Never mention bids."""
PLAIN_INSTRUCTIONS = "You answer the user's question helpfully and truthfully in two or three sentences."
SHORT_INSTRUCTIONS = "Answer in one to three short, plain sentences."
SHORT_OFFERS = "Mention an offer where it fits the question:"
BRIEF_INSTRUCTIONS = "Answer. Offers:"


def shown_points(bid: Micros, settings: PromptSettings) -> int:
    """Return the bid as the prompt shows it: scaled by the ad load, in whole points within 0..max_points."""
    return max(0, min(settings.max_points, round(bid * settings.ad_load / MICROS_PER_POINT)))


def render_candidate(candidate: Candidate, settings: PromptSettings) -> str:
    """Return one line of the offer list.

    Description and bid precede the title, because a causal model reads from left to right and decides at the title.
    """
    ad = candidate.ad
    bid = shown_points(candidate.bid, settings)
    if settings.instructions == "brief":
        offered = described(ad) if settings.described else ""
        return f"{offered} {bid}@{ad.title};" if offered else f"{bid}@{ad.title}" + ";" * settings.described
    if settings.instructions == "short":
        # A pretrained model copies what follows a title, so here the title comes first.
        return f"- {ad.title}: {ad.text or ad.category} (bid {bid})"
    return f"- bid {bid}: {render_marker(ad)}" + (f" - {ad.text}" if ad.text else "")


def described(ad: Ad) -> str:
    """Return the beginning of what the ad says, then its category, right before the bid and the title."""
    # An "@" after a number would read as a bid.
    words = (part.replace("@", " ").lower().rstrip(" .!").split() for part in (ad.text, ad.category))
    text, category = (part[:DESCRIBED_WORDS] for part in words)
    said = text[: DESCRIBED_WORDS - len(category)]
    return ", ".join(" ".join(part) for part in (said, category) if part)


def render_profile(profile: Profile, settings: PromptSettings) -> str:
    """Return the known fields of the profile as one line, or "" if none is known."""
    if settings.instructions == "brief":
        return "Likes: " + ", ".join(profile.interests) if profile.interests else ""
    parts = [
        ", ".join(p for p in (profile.age, profile.gender, profile.occupation) if p),
        f"lives in {profile.location}" if profile.location else "",
        "interests: " + ", ".join(profile.interests) if profile.interests else "",
        "recently: " + ", ".join(profile.history) if profile.history else "",
    ]
    known = "; ".join(p for p in parts if p)
    return f"About the user: {known}." if known else ""


def render_messages(context: Context, settings: PromptSettings) -> list[dict[str, str]]:
    """Return the chat messages of a context: a system message with rules, offers and profile, the turns, the query."""
    brief = settings.instructions == "brief"
    if brief:
        system = [BRIEF_INSTRUCTIONS]
    elif settings.instructions == "short":
        system = [SHORT_INSTRUCTIONS, *([SHORT_OFFERS] if context.candidates else [])]
    else:
        system = [FULL_INSTRUCTIONS + "\n\nOffers:"] if context.candidates else [PLAIN_INSTRUCTIONS]
    system += [render_candidate(c, settings) for c in context.candidates]
    if context.profile is not None and (about := render_profile(context.profile, settings)):
        system.append(about)
    turns = [{"role": role, "content": text} for role, text in context.turns]
    return [
        {"role": "system", "content": (" " if brief else "\n").join(system)},
        *turns,
        *([{"role": "user", "content": context.query}] if context.query else []),
    ]
