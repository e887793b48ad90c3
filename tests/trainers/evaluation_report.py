"""Made-up but plausible records and a whole report for the tests of the report's readers."""

from __future__ import annotations

import numpy as np

from mechanism.properties import (
    Charge,
    continuity,
    exploitability,
    individual_rationality,
    monotonicity,
    no_regret_play,
    value_maximiser_ic,
)
from mechanism.statistics import Interval
from mechanism.types import Ad, Answer, Candidate, Context, Insertion
from trainers.evaluation.metrics import AnswerRecord, best_single_generation, ratios, summarise
from trainers.evaluation.report import Machine, Meta, PerQuery, Report, Sample, Tuning, compared, figures
from trainers.pretraining.new_titles import NewTitles

# revenue, reward, ads per answer, ctr, relevance, quality, generations, seconds
LEVELS = {
    "pretrained": (18.6, -9.4, 1.5, 0.24, 0.52, 0.71, 1, 0.08),
    "gsp": (27.5, 9.9, 1.2, 0.28, 0.58, 0.66, 1, 0.09),
    "segment": (24.1, 6.2, 1.4, 0.27, 0.55, 0.69, 1, 0.15),
    "token": (23.0, 5.0, 1.2, 0.25, 0.55, 0.69, 3, 0.25),
    "mosaic_20": (31.2, 11.7, 1.3, 0.33, 0.61, 0.72, 20, 1.52),
    "llm_auction": (49.8, 29.3, 1.35, 0.41, 0.68, 0.73, 1, 0.08),
    "oracle": (55.4, 34.8, 1.4, 0.43, 0.70, 0.74, 1, 0.08),
    "optimum": (60.1, 40.2, 1.4, 0.45, 0.71, 0.80, 0, 0.0),
}


def made_up_records(method: str, queries: int = 400, seed: int = 0) -> list[AnswerRecord]:
    """One answer a query; queries are the same ones for every method, so figures are correlated."""
    revenue, reward, load, ctr, relevance, quality, generations, seconds = LEVELS[method]
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, list(LEVELS).index(method)])
    worth = shared.gamma(2.0, 0.5, size=queries)
    records = []
    for k in range(queries):
        ads = int(own.poisson(load))
        records.append(
            AnswerRecord(
                query_id=f"q{k}",
                method=method,
                revenue=float(revenue * worth[k] * own.gamma(4.0, 0.25)),
                reward=float(reward + 14 * (worth[k] - 1) + own.normal(0, 9)),
                clicks_expected=float(sum(own.beta(8 * ctr, 8 * (1 - ctr), size=ads))),
                relevance_sum=float(sum(own.beta(9 * relevance, 9 * (1 - relevance), size=ads))),
                ads=ads,
                invalid=int(own.random() < 0.07) if method == "gsp" else 0,
                quality=float(np.clip(own.normal(quality, 0.12), 0, 1)),
                generations=generations,
                seconds=float(seconds * own.gamma(30, 1 / 30)),
            )
        )
    return records


def made_up_report(methods: tuple[str, ...] = tuple(LEVELS), seed: int = 0) -> Report:
    rng = np.random.default_rng(5)
    records = {method: made_up_records(method, seed=seed) for method in methods}
    bids = [1.0, *np.arange(10.0, 101.0, 10.0)]
    fine = np.arange(1.0, 101.0)
    probability = 0.03 + 0.42 / (1 + np.exp(-(fine - 45) / 14))
    steps = continuity(
        probability[:, None] + rng.normal(0, 0.03, size=(50, 2, 100, 4)), fine.tolist(), seed=0, draws=500
    )
    allocation = {}
    for epoch in range(5):
        curve = 0.16 + 0.02 * epoch + 0.06 * epoch * np.tanh((np.array(bids) - 40) / 40)
        allocation[str(epoch)] = {"mean": curve, "lo": curve - 0.018, "hi": curve + 0.018}
    sweep = np.clip(0.2 + 0.002 * np.array(bids)[:, None] + rng.normal(0, 0.05, size=(11, 300)), 0, 1)
    curves = np.sort(rng.uniform(0, 0.5, size=(80, 11)), axis=1)
    plays = [
        no_regret_play(lambda b: b / (b.sum(axis=1, keepdims=True) + 50), [v, 60.0], [0, 20, 40, 60], rounds=150)
        for v in (40.0, 60.0, 90.0)
    ]
    predicted = np.linspace(0.05, 0.75, 10)
    return Report(
        meta=Meta(
            config="quick",
            base="tiny",
            seed=seed,
            queries=400,
            candidates=20,
            command="llm-auction evaluate build/runs/quick --out build/evaluation",
            machine=Machine(cpu="Example CPU @ 2.50GHz", cores=2, ram_gib=15.6),
            date="2026-11-23",
            versions={"python": "3.11.4", "torch": "2.15.0"},
            digest="sha256:4f0c2d",
        ),
        methods={method: figures(summarise(answers, seed=0)) for method, answers in records.items()},
        ratios=compared(ratios(records, seed=0)),
        best_single_generation=best_single_generation(records),
        tuning={"gsp": Tuning(tried=27, chosen="slots 2, temperature 0.35", learned_reward=10.1)},
        per_query={method: PerQuery.of(answers) for method, answers in records.items()},
        properties={
            "monotonicity": monotonicity(sweep, bids, seed=0).to_dict(),
            "continuity": steps.to_dict(),
            "individual_rationality": individual_rationality(
                [Charge(f"a{k}", "ad-1", 500_000, 1, 500_000, value=800_000) for k in range(12_000)]
            ).to_dict(),
            "value_maximiser_ic": value_maximiser_ic(
                curves, bids, np.full(80, 60.0), np.full(80, 1.5), seed=0
            ).to_dict(),
            "exploitability": exploitability(plays, seed=0).to_dict(),
            "new_titles": NewTitles(100, 4, 0.6, 0.5, Interval(0.83, 0.75, 0.91)).to_dict(),
        },
        epochs=[
            {
                "epoch": epoch,
                "revenue_per_query": 18.6 + 31.2 * (1 - np.exp(-epoch / 1.6)),
                "reward_per_query": -9.4 + 38.7 * (1 - np.exp(-epoch / 1.3)),
                "pctr_auc": None if epoch == 0 else 0.78 + 0.01 * epoch,
                "kl_to_base": 0.9 * epoch,
                "seconds": 130.0,
                "pairs": 900 + epoch,
            }
            for epoch in range(5)
        ],
        allocation={"bids": bids, "epochs": allocation},
        continuity_curve={"bids": fine, "mean": steps.curve, "error": steps.error},
        calibration={
            "predicted": predicted,
            "observed": np.clip(predicted + rng.normal(0, 0.03, 10), 0, 1),
            "count": (900 * np.exp(-(((predicted - 0.3) / 0.25) ** 2))).astype(int),
        },
        samples=[made_up_sample(m) for m in ("pretrained", "llm_auction") if m in methods],
        train_seconds=548.0,
    )


def made_up_sample(method: str, title: str = "Fernweh Audio QuietOne", query: str = "") -> Sample:
    """An answer with one ad in its second sentence."""
    lead = "For noisy trains, headphones differ more than most people think. Among those that suit a commute, "
    text = lead + title + " stands out. Check that they stay comfortable for an hour or two."
    ad = Ad("ad-17", title, "Headphones with noise cancelling", "Fernweh Audio")
    context = Context("c1", query or "Which headphones are good for noisy trains?", (Candidate(ad, 640_000),))
    answer = Answer(text, text, (Insertion("ad-17", len(lead), len(lead) + len(title)),))
    return Sample.of(context, method, answer, {"ad-17": 0.46})
