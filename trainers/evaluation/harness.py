"""The evaluation of a run: every mechanism on the same held-out contexts, then the properties, then one report.

Figures of money, reward, clicks and relevance are the simulator's expectations (its true probabilities), so that no
click noise stands between the methods; training never saw them unless the run is an oracle's.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from inference.encoder import shared_encoder
from inference.policy import Policy
from mechanism.baselines import BaselineAnswer
from mechanism.objective import reward
from mechanism.prompt import MICROS_PER_POINT
from mechanism.properties import continuity, monotonicity
from mechanism.types import Context
from trainers.evaluation import methods, sweeps
from trainers.evaluation.comparison import ratios
from trainers.evaluation.machine import machine_summary, package_versions
from trainers.evaluation.quality import answer_qualities
from trainers.evaluation.records import AnswerRecord, summarise
from trainers.evaluation.report import (
    Allocation,
    Band,
    Calibration,
    ContinuityCurve,
    Epoch,
    Meta,
    Property,
    Report,
    Sample,
    compared,
    figures,
)
from trainers.irpo.loop import SECONDS, best_epoch
from trainers.irpo.phases import FIGURES, finished
from trainers.irpo.session import Session
from trainers.irpo.temperature import served
from trainers.pretraining.new_titles import shown_under_new_titles

Say = Callable[[str], None]
SAMPLE_ANSWERS = 8
SWEEP_ANSWERS = 4
GAMES = 8


@dataclass(slots=True)
class Findings:
    """What has been measured so far: records and answers by method."""

    records: dict[str, list[AnswerRecord]] = field(default_factory=dict)
    answers: dict[str, tuple[BaselineAnswer, ...]] = field(default_factory=dict)


def evaluate_run(s: Session, say: Say, command: str, oracle: Session | None = None, epoch: int | None = None) -> Report:
    """Evaluates a run's best epoch (or the one given) against its base and the rivals; `oracle` is a second run that
    was trained on true probabilities."""
    chosen = best_epoch(s) if epoch is None else epoch
    last = max(e for e in range(1, s.config.epochs + 1) if finished(s, "reward_model", e))
    contexts = methods.with_ids(s.test_contexts(s.config.evaluation.queries))
    seed = s.seed(0, 40)
    found = Findings()
    _play_methods(s, found, contexts, chosen, last, seed, say, oracle)
    report = _report(s, found, contexts, served(s, chosen), "llm_auction", command, say)
    return report.model_copy(
        update={"epochs": _epochs(s), "calibration": _calibration(s, last), "train_seconds": train_seconds(s)}
    )


def evaluate_model(s: Session, method: str, say: Say, command: str) -> Report:
    """Evaluates the session's base model alone, under the name of `method`: what it shows and what its bids do. There
    is no pCTR model and hence no rival."""
    contexts = methods.with_ids(s.test_contexts(s.config.evaluation.queries))
    found = Findings()
    say(f"{s.config.base}")
    played = methods.play_policy(s.policy(0), contexts, s.seed(0, 40))
    found.answers[method] = played.answers
    found.records[method] = records_of(s, method, contexts, played)
    return _report(s, found, contexts, s.policy(0), method, command, say)


def _report(
    s: Session, found: Findings, contexts: Sequence[Context], ours: Policy, method: str, command: str, say: Say
) -> Report:
    """Everything that the answers and sweeps of `ours` (one of the methods) say."""
    seed = s.seed(0, 40)
    properties, allocation, curve = _properties(s, found.answers[method], contexts, ours, seed, say)
    summaries = {name: summarise(records, seed) for name, records in found.records.items()}
    say("writing the report")
    return Report(
        meta=Meta(
            config=s.config.name,
            base=s.config.base,
            seed=s.config.seed,
            queries=len(contexts),
            candidates=len(contexts[0].candidates),
            command=command,
            machine=machine_summary(torch.cuda.get_device_name() if torch.cuda.is_available() else ""),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            versions=package_versions(),
            digest=ours.digest,
        ),
        methods={name: figures(metrics) for name, metrics in summaries.items()},
        ratios=compared(ratios(found.records, seed)) if "llm_auction" in found.records else {},
        properties={name: Property.model_validate(p) for name, p in properties.items()},
        allocation=allocation,
        continuity_curve=curve,
        samples=_samples(s, found, contexts),
        constrained_answers=sum(r.generations for own in found.records.values() for r in own),
    )


def _play_methods(
    s: Session,
    found: Findings,
    contexts: Sequence[Context],
    chosen: int,
    last: int,
    seed: int,
    say: Say,
    oracle: Session | None,
) -> None:
    lam, base, predictor = s.config.preference.lam, s.policy(0), s.predictor(last)

    def note(name: str, played: methods.Played) -> None:
        found.answers[name] = played.answers
        found.records[name] = records_of(s, name, contexts, played)

    say("pretrained")
    note("pretrained", methods.play_policy(base, contexts, seed))
    samples = s.config.evaluation.mosaic_samples
    say("tuning the rivals on validation contexts")
    held = methods.with_ids(s.contexts.validation()[:64])
    tuned = methods.tune_baselines(base, predictor, held, s.penalty, lam, samples, s.config.evaluation.temperatures, seed)
    say(f"mosaic, {samples} answers a query")
    drawn = methods.play_mosaic(base, predictor, contexts, s.penalty, lam, samples, tuned.mosaic_sampling, seed)
    note("mosaic", drawn)
    say("gsp")
    note("gsp", methods.play_gsp(base, predictor, contexts, tuned.gsp, seed))
    say("segment")
    note("segment", methods.play_segment(base, contexts, tuned.segment, tuned.sharpness, seed))
    say(f"llm_auction, epoch {chosen}")
    note("llm_auction", methods.play_policy(served(s, chosen), contexts, seed))
    if oracle is not None:
        say("oracle")
        note("oracle", methods.play_policy(served(oracle, best_epoch(oracle)), contexts, seed))


def records_of(s: Session, name: str, contexts: Sequence[Context], played: methods.Played) -> list[AnswerRecord]:
    """One record per context under the simulator's true probabilities."""
    generations = [own.generation for own in played.answers]
    items = [(c.query, g.answer, g.finished) for c, g in zip(contexts, generations, strict=True)]
    qualities = answer_qualities(items, shared_encoder().encode)
    records = []
    for context, own, quality in zip(contexts, played.answers, qualities, strict=True):
        answer = own.generation.answer
        causes = s.truth.causes(context, answer)
        ctr = {ad: cause.probability for ad, cause in causes.items()}
        records.append(
            AnswerRecord(
                query_id=context.id,
                method=name,
                revenue=sum(own.click_prices[ad] * p for ad, p in ctr.items()) / MICROS_PER_POINT,
                reward=reward(answer, context.bids(), ctr, s.penalty, s.config.preference.lam),
                clicks_expected=sum(ctr.values()),
                relevance_sum=sum(c.relevance for c in causes.values()),
                ads=len(ctr),
                invalid=len(answer.faults),
                quality=quality,
                generations=own.generations,
                seconds=played.seconds / len(contexts),
            )
        )
    return records


def _properties(
    s: Session, own: Sequence[BaselineAnswer], contexts: Sequence[Context], ours: Policy, seed: int, say: Say
) -> tuple[dict[str, Mapping[str, Any]], Allocation | None, ContinuityCurve | None]:
    config = s.config.evaluation
    properties: dict[str, Mapping[str, Any]] = {
        "individual_rationality": sweeps.charges(contexts, own, s.truth, seed).to_dict()
    }
    some = contexts[: config.swept_contexts]
    allocation: Allocation | None = None
    if some:
        ads = sweeps.swept_ads(some, s.truth, seed)
        bands: dict[str, Band] = {}
        for epoch in range(s.config.epochs + 1):
            if epoch > 0 and not finished(s, "policy", epoch):
                break
            say(f"bid sweep, epoch {epoch}")
            swept = sweeps.sweep(s.policy(epoch), some, ads, s.truth, 1, seed)
            bands[str(epoch)] = _band(swept, seed)
        allocation = Allocation(bids=sweeps.LEVELS, epochs=bands)
        say("bid sweep of the chosen policy")
        swept = sweeps.sweep(ours, some, ads, s.truth, SWEEP_ANSWERS, seed + 1)
        properties["monotonicity"] = monotonicity(swept.clicks_LCA.mean(2), sweeps.LEVELS, seed).to_dict()
        properties["value_maximiser_ic"] = sweeps.value_maximisers(swept, seed)
        say("new titles")
        properties["new_titles"] = shown_under_new_titles(ours, some, s.truth, seed).to_dict()
        say("play between advertisers")
        properties["exploitability"] = sweeps.utility_maximisers(ours, some[:GAMES], s.truth, SWEEP_ANSWERS, seed)
    curve: ContinuityCurve | None = None
    if config.continuity_answers:
        context = contexts[0]
        ad = sweeps.swept_ads([context], s.truth, seed)[0]
        means, errors = sweeps.continuity_samples(
            ours,
            context,
            ad,
            s.truth,
            config.continuity_answers,
            seed,
            lambda done, total: say(f"continuity: bid {done} of {total}"),
        )
        bids = tuple(float(b) for b in range(1, 101))
        properties["continuity"] = continuity(means, errors, bids, seed).to_dict()
        curve = ContinuityCurve(bids=bids, mean=tuple(means.tolist()), error=tuple(errors.tolist()))
    return properties, allocation, curve


def _band(swept: sweeps.Sweep, seed: int) -> Band:
    means = monotonicity(swept.clicks_LCA.mean(2), sweeps.LEVELS, seed).means
    return Band(mean=tuple(m.mean for m in means), lo=tuple(m.lo for m in means), hi=tuple(m.hi for m in means))


def _epochs(s: Session) -> tuple[Epoch, ...]:
    rows = []
    spent: dict[str, float] = s.run.read_json(SECONDS) if s.run.exists(SECONDS) else {}
    for epoch in range(s.config.epochs + 1):
        if not finished(s, "evaluation", epoch):
            break
        v = s.figures("evaluation.json", epoch)
        quality = reward_figures(s, epoch) if epoch > 0 else {}
        rows.append(
            Epoch(
                epoch=epoch,
                revenue_per_query=v["revenue"],
                reward_per_query=v["true_reward"],
                pctr_auc=quality.get("auc"),
                pctr_calibration_error=quality.get("calibration_error"),
                kl_to_base=v["kl_to_base"],
                ads_per_answer=v["ads_per_answer"],
                learned_reward=v["learned_reward"],
                seconds=spent.get(str(epoch)),
            )
        )
    return tuple(rows)


def reward_figures(s: Session, epoch: int) -> dict[str, Any]:
    """Quality figures of an epoch's pCTR model; empty for an oracle's run."""
    data: dict[str, Any] = json.loads((s.run.phase("reward_model", epoch).fetch() / FIGURES).read_text("utf-8"))
    return data


def _calibration(s: Session, epoch: int) -> Calibration | None:
    curve = reward_figures(s, epoch).get("curve")
    if curve is None:
        return None
    return Calibration(
        predicted=tuple(curve["predicted"]), observed=tuple(curve["observed"]), count=tuple(map(int, curve["count"]))
    )


def _samples(s: Session, found: Findings, contexts: Sequence[Context]) -> tuple[Sample, ...]:
    rng = np.random.default_rng(s.seed(0, 41))
    picked = rng.permutation(len(contexts))[: SAMPLE_ANSWERS // 2]
    samples = []
    for k in picked:
        for name in [n for n in ("pretrained", "llm_auction") if n in found.answers]:
            answer = found.answers[name][k].generation.answer
            samples.append(Sample.of(contexts[k], name, answer, s.truth.probabilities(contexts[k], answer)))
    return tuple(samples)


def train_seconds(s: Session) -> float | None:
    """Seconds that the run's phases took, all attempts at finished phases included."""
    return float(sum(s.run.read_json(SECONDS).values())) if s.run.exists(SECONDS) else None
