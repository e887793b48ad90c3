"""The best answer that the built-in world's language can express, found by search with the true click probabilities.

It bounds what a policy of this language can earn, and stands in every table. The search tries every ordered set of up
to MOST_ADS of the CONSIDERED ads. The wording of the IMPROVED best sets is then improved in turn: the lead, the advice,
its place, each ad's sentence, again and again until none of them can be replaced with profit. The result is a lower
bound of the true optimum, and an answer that the language can write.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mechanism.markers import parse, render_marker
from mechanism.objective import Penalty, reward
from mechanism.types import Ad, AdId, Answer, Context
from simulator.clicks import ClickModel
from simulator.language import FITTING, LEADS, NAMING, PLAIN, STYLES, fill, style_of
from simulator.world import Query, World

MOST_ADS = 3
"""Most ads in an answer: with more than the click model's `flood_after` none is clicked."""
CONSIDERED = 5
"""Ads with the highest bid times relevance that the search combines."""
IMPROVED = 3
"""Best of the sets of ads whose wording is improved."""
NEGLIGIBLE = 1e-9


@dataclass(frozen=True, slots=True)
class Limits:
    """What the search may use: at most `ads` ads, and with `sober` only the base model's kinds of sentence.

    A sober answer names the question's aspect beside an ad only if the ad's need was asked for (`language.style_of`).
    """

    ads: int = MOST_ADS
    sober: bool = False


@dataclass(frozen=True, slots=True)
class Best:
    """The best answer found, and its reward in points under the true click probabilities."""

    answer: Answer
    reward: float


@dataclass(frozen=True, slots=True)
class _Plan:
    """A lead, one piece of advice before the sentence number `place`, and the shown ads with their sentences."""

    lead: str
    advice: str
    place: int
    shown: tuple[tuple[AdId, str], ...]

    def text(self) -> str:
        sentences = [sentence for _, sentence in self.shown]
        return " ".join([self.lead, *sentences[: self.place], self.advice, *sentences[self.place :]])


class _Search:
    """The search for one context."""

    def __init__(
        self,
        world: World,
        query: Query,
        context: Context,
        truth: ClickModel,
        penalty: Penalty,
        lam: float,
        limits: Limits,
    ) -> None:
        self.truth, self.penalty, self.lam, self.limits = truth, penalty, lam, limits
        self.asked = (query.category, query.also)
        self.category = next(c for c in world.categories if c.name == query.category)
        self.aspect = next((a for a in self.category.aspects if a in query.text), self.category.aspects[0])
        self.leads = tuple(fill(t, self.category.name, self.aspect) for t in LEADS)
        ads = [c.ad for c in context.candidates]
        self.ads = {ad.id: ad for ad in ads}
        worth = truth.relevance(context, ads) * [c.bid for c in context.candidates]
        best = [int(i) for i in np.argsort(-worth, kind="stable")[:CONSIDERED]]
        self.considered = [ads[i].id for i in best]
        # Probabilities depend on no candidate that is not shown.
        self.context = replace(context, candidates=tuple(context.candidates[i] for i in best))
        self.bids = self.context.bids()
        self.scored: dict[_Plan, Best] = {}
        self.wordings = {i: self._wordings(self.ads[i]) for i in self.considered}

    def _wordings(self, ad: Ad) -> tuple[str, ...]:
        need, marker = ad.category or ad.title, render_marker(ad)
        fitting = STYLES[style_of(self.asked, need, plain=False)] if self.limits.sober else (*FITTING, *NAMING)
        return tuple(fill(t, need, self.aspect, marker) for t in (*fitting, *PLAIN))

    def score(self, plan: _Plan) -> Best:
        """Return the plan's answer and its reward; neighbourhoods overlap, so most plans are asked for repeatedly."""
        if plan not in self.scored:
            answer = parse(plan.text(), [self.ads[i] for i, _ in plan.shown])
            rates = self.truth.probabilities(self.context, answer)
            self.scored[plan] = Best(answer, reward(answer, self.bids, rates, self.penalty, self.lam))
        return self.scored[plan]

    def starts(self) -> Iterator[_Plan]:
        """Yield a plan for every ordered set of ads; the ads' sentences have different forms, lest they repeat."""
        for count in range(self.limits.ads + 1):
            for chosen in itertools.permutations(self.considered, count):
                shown = tuple((i, self.wordings[i][k]) for k, i in enumerate(chosen))
                yield _Plan(self.leads[0], self.category.advice[0], 0, shown)

    def variants(self, plan: _Plan, part: int) -> Iterator[_Plan]:
        """Yield the plans that differ from `plan` in one part: lead, advice, place, or the ad sentence `part` - 3."""
        if part == 0:
            yield from (replace(plan, lead=lead) for lead in self.leads)
        elif part == 1:
            yield from (replace(plan, advice=advice) for advice in self.category.advice)
        elif part == 2:
            yield from (replace(plan, place=place) for place in range(len(plan.shown) + 1))
        else:
            k = part - 3
            ad_id, _ = plan.shown[k]
            for sentence in self.wordings[ad_id]:
                yield replace(plan, shown=(*plan.shown[:k], (ad_id, sentence), *plan.shown[k + 1 :]))

    def climb(self, plan: _Plan) -> Best:
        """Improve the wording of a plan part by part until no part can be replaced with profit."""
        found, part, unchanged, parts = self.score(plan), 0, 0, 3 + len(plan.shown)
        while unchanged < parts:
            following = max(self.variants(plan, part), key=lambda p: self.score(p).reward)
            better = self.score(following)
            unchanged += 1
            if better.reward > found.reward + NEGLIGIBLE:
                found, plan, unchanged = better, following, 0
            part = (part + 1) % parts
        return found


def best_answer(
    world: World,
    query: Query,
    context: Context,
    truth: ClickModel,
    penalty: Penalty,
    lam: float = 1.0,
    limits: Limits | None = None,
) -> Best:
    """Search for the answer to `context` (drawn for `query`) with the highest reward R(y) (Eq. 5)."""
    search = _Search(world, query, context, truth, penalty, lam, limits or Limits())
    plans = sorted(search.starts(), key=lambda plan: -search.score(plan).reward)
    return max((search.climb(plan) for plan in plans[:IMPROVED]), key=lambda best: best.reward)
