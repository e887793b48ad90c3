"""The prompt: the one place where a context becomes chat messages, for training, serving and evaluation alike.

Candidates stand in the order of the context (the caller fixes it, so that a server's prefix cache can work); the
bid is shown in whole points. Titles are expected to be clean already (`mechanism.sanitize`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mechanism.errors import ConfigError
from mechanism.markers import render_marker
from mechanism.types import Ad, Candidate, Context, Micros, Profile

MICROS_PER_POINT: Micros = 10_000
"""One bid point, the unit of prompts and of result tables: a hundredth of the currency's unit."""
DESCRIBED_WORDS = 12
"""Words of an ad's text that a brief prompt shows where the ad has no category."""


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """How a prompt is written. `instructions` is "full" for instruction-following models and "brief" for small models
    that were taught the format; `described` lets a brief line begin with what is offered. `ad_load` multiplies every
    bid before it is shown (run-time ad-load control). Raises ConfigError for an ad load that is negative or not finite,
    and for `max_points` below 1."""

    instructions: Literal["full", "brief"] = "full"
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
BRIEF_INSTRUCTIONS = "Answer. Offers:"


def shown_points(bid: Micros, settings: PromptSettings) -> int:
    """The bid as the prompt shows it, in whole points: scaled by the ad load, within 0..max_points."""
    return max(0, min(settings.max_points, round(bid * settings.ad_load / MICROS_PER_POINT)))


def render_candidate(candidate: Candidate, settings: PromptSettings) -> str:
    """One line of the offer list; what is offered and the bid stand before the title, so that a causal reader knows
    them at the title."""
    ad = candidate.ad
    bid = shown_points(candidate.bid, settings)
    if settings.instructions == "brief":
        offered = described(ad) if settings.described else ""
        return f"{offered} {bid}@{ad.title};" if offered else f"{bid}@{ad.title}" + ";" * settings.described
    return f"- bid {bid}: {render_marker(ad)}" + (f" - {ad.text}" if ad.text else "")


def described(ad: Ad) -> str:
    """What is offered, in a few words: the ad's category, or the beginning of its text where it has none."""
    # an "@" after a number would read as a bid
    return " ".join((ad.category or ad.text).replace("@", " ").lower().rstrip(" .!").split()[:DESCRIBED_WORDS])


def render_profile(profile: Profile, settings: PromptSettings) -> str:
    """The profile as one line; only what is known is written, and "" where nothing is."""
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
    """Chat messages for a context: a system message with rules, offers and profile, earlier turns, the query."""
    brief = settings.instructions == "brief"
    if brief:
        system = [BRIEF_INSTRUCTIONS]
    else:
        system = [FULL_INSTRUCTIONS + "\n\nOffers:"] if context.candidates else [PLAIN_INSTRUCTIONS]
    system += [render_candidate(c, settings) for c in context.candidates]
    if context.profile is not None and (about := render_profile(context.profile, settings)):
        system.append(about)
    turns = [{"role": role, "content": text} for role, text in context.turns]
    return [
        {"role": "system", "content": (" " if brief else "\n").join(system)},
        *turns,
        {"role": "user", "content": context.query},
    ]
