"""`make bench-safety`: what the gate keeps ads away from, what it costs, and whether creatives can steer an answer.

The prompts and creatives (`data/safety/`) were written apart from the phrases, examples and rules that they measure.

gate_recall        share of the sensitive prompts that the gate keeps ads away from
commercial_lost    share of the commercial prompts that the gate keeps ads away from
neutral_with_ads   share of the neutral prompts that get at least one candidate of the built-in catalogue: an upper
                   bound of those that would show an ad, because the policy may still show none
sensitive_with_candidates
                   share of the sensitive prompts that get a candidate past gate and relevance floor
injection_success  attack creatives that get through: booked without a refusal, without a finding that holds them for
                   review, and whose title or text still stands in an answer whose policy copies both word by word
gate_ms_p99        99th percentile of a judgement of messages whose phrases and vectors are known, in milliseconds
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.figures import write_figures
from benchmarks.serving.builtin_router import builtin_router, offers_for
from inference.encoder import shared_encoder
from mechanism.markers import render_marker
from mechanism.stream import MarkerStream
from serving.answering.rendering import VisibleAnswer
from serving.answering.scan import AnswerScan
from serving.auction.eligibility import Eligible
from serving.auction.offers import Offer, choose_offers
from serving.auction.retrieval import Hit
from serving.campaigns.input import CampaignInput, CreativeInput
from serving.campaigns.screening import Names, is_planted
from serving.campaigns.validation import BadCampaign, checked

DATA = resources.files("benchmarks.serving") / "data" / "safety"
OUT = Path("build/bench/safety.json")
SENSITIVE, COMMERCIAL, NEUTRAL = "sensitive", "commercial", "neutral"
HONEST = "honest"
REPEATS = 5
"""Judgements of which the quickest is timed, because other processes interrupt single ones."""
STRANGER = "Stranger of the benchmark"


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one prompt."""

    label: str
    language: str
    topic: str
    withheld: bool
    candidates: int


def main() -> None:
    """Measure, write `build/bench/safety.json` and print the tables."""
    prompts, creatives = _read("prompts.yaml"), _read("creatives.yaml")
    with tempfile.TemporaryDirectory() as folder:
        judged, milliseconds, names = asyncio.run(_judge(prompts, Path(folder)))
    outcomes = [(entry["family"], _outcome(entry, names)) for entry in creatives]
    figures = _figures(judged, milliseconds, outcomes)
    write_figures(OUT, figures)
    print(_tables(figures))


def _read(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = yaml.safe_load((DATA / name).read_text(encoding="utf-8"))
    return entries


async def _judge(prompts: Sequence[Mapping[str, Any]], folder: Path) -> tuple[list[Judged], list[float], Names]:
    async with builtin_router(folder) as router:
        gate = router.context.gate
        judged, milliseconds = [], []
        shared_encoder().encode([message for entry in prompts for message in _asked(entry)])  # in batches
        for entry in prompts:
            asked = _asked(entry)
            vectors = list(shared_encoder().encode(asked))
            verdict = gate.judge(asked, vectors)
            milliseconds.append(min(_timed(partial(gate.judge, asked, vectors)) for _ in range(REPEATS)))
            offers: tuple[Offer, ...] = ()
            if not verdict.code:
                offers = await offers_for(router, asked, vectors)
            topic = entry.get("topic") or ""
            judged.append(Judged(entry["label"], entry["language"], topic, bool(verdict.code), len(offers)))
        names = Names(router.marketplace.index)
    return judged, milliseconds, names


def _timed(work: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1_000


def _asked(entry: Mapping[str, Any]) -> list[str]:
    """Return the reader's messages: the text, or those of the turns that are not the assistant's."""
    if "turns" not in entry:
        return [entry["text"]]
    turns = entry["turns"]
    if all(isinstance(turn, str) for turn in turns):
        return list(turns)
    return [turn["content"] for turn in turns if turn["role"] == "user"]


def _outcome(entry: Mapping[str, Any], names: Names) -> str:
    """Return refused, held, stopped (by the scan) or success."""
    creative = CreativeInput(
        id="probe", title=entry["title"], text=entry.get("text") or "", landing_url=entry["landing_url"]
    )
    given = CampaignInput(
        name="probe", bid_micros=1, currency="USD", advertiser_id=STRANGER, creatives=[creative], id="probe"
    )
    try:
        campaign = checked(given, datetime.now(UTC), names=names)
    except BadCampaign:
        return "refused"
    (stored,) = campaign.creatives
    if stored.findings:
        return "held"
    if is_planted(stored):
        return "stopped"
    ((offer,), _) = choose_offers((Hit(Eligible(campaign, stored, 1), 1.0, 1.0),), 1)
    answer = _copied(offer)
    return "success" if stored.title in answer or (stored.text and stored.text in answer) else "stopped"


def _copied(offer: Offer) -> str:
    """Return the answer of a policy that copies a creative's text and then links it."""
    offers = {offer.ad.id: offer}
    markers, scan = MarkerStream([offer.ad]), AnswerScan(offers, "")
    visible = VisibleAnswer(offers, lambda _: "https://router.example/c/token", 1)
    written = f"{offer.ad.text} Consider {render_marker(offer.ad)} today."
    pieces = [*scan.feed(markers.feed(written)), *scan.feed(markers.finish()), *scan.finish()]
    return "".join(delta.content for delta in [*visible.add(pieces), *visible.finish()])


def _figures(
    judged: Sequence[Judged], milliseconds: Sequence[float], outcomes: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    by_label = {label: [one for one in judged if one.label == label] for label in (SENSITIVE, COMMERCIAL, NEUTRAL)}
    recall = defaultdict[str, list[bool]](list)
    lost = defaultdict[str, list[bool]](list)
    for one in by_label[SENSITIVE]:
        recall[f"{one.topic}"].append(one.withheld)
        recall[f"language {one.language}"].append(one.withheld)
    for one in by_label[COMMERCIAL]:
        lost[f"language {one.language}"].append(one.withheld)
        lost[one.topic].append(one.withheld)
    attacks = [(family, outcome) for family, outcome in outcomes if family != HONEST]
    honest = Counter(outcome for family, outcome in outcomes if family == HONEST)
    families = defaultdict[str, Counter[str]](Counter)
    for family, outcome in attacks:
        families[family][outcome] += 1
    return {
        "prompts": {label: len(found) for label, found in by_label.items()},
        "gate_recall": _share([one.withheld for one in by_label[SENSITIVE]]),
        "commercial_lost": _share([one.withheld for one in by_label[COMMERCIAL]]),
        "sensitive_with_candidates": _share([one.candidates > 0 for one in by_label[SENSITIVE]]),
        "commercial_without_candidates": _share([not one.candidates for one in by_label[COMMERCIAL]]),
        "neutral_with_ads": _share([one.candidates > 0 for one in by_label[NEUTRAL]]),
        "gate_ms_p99": round(float(np.percentile(milliseconds, 99)), 4),
        "creatives": len(attacks),
        "injection_success": sum(outcome == "success" for _, outcome in attacks),
        "honest": sum(honest.values()),
        "honest_refused": honest["refused"],
        "honest_held": honest["held"],
        "recall_by": {name: _share(found) for name, found in sorted(recall.items())},
        "lost_by": {name: _share(found) for name, found in sorted(lost.items())},
        "neutral_by": {
            language: _share([one.candidates > 0 for one in by_label[NEUTRAL] if one.language == language])
            for language in sorted({one.language for one in by_label[NEUTRAL]})
        },
        "families": {family: dict(counts) for family, counts in sorted(families.items())},
    }


def _share(found: Sequence[bool]) -> float:
    return round(float(np.mean(found)), 4) if len(found) else 0.0


def _tables(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = ["| figure | measured |", "| --- | --- |"]
    rows += [f"| `{name}` | {value} |" for name, value in figures.items() if not isinstance(value, dict)]
    rows += ["", "| topic or language | recall |", "| --- | --- |"]
    rows += [f"| {name} | {value} |" for name, value in figures["recall_by"].items()]
    rows += ["", "| family | refused | held | stopped | success |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| {family} | " + " | ".join(str(counts.get(o, 0)) for o in ("refused", "held", "stopped", "success")) + " |"
        for family, counts in figures["families"].items()
    ]
    rows += ["", json.dumps({name: figures[name] for name in ("lost_by", "neutral_by")})]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
