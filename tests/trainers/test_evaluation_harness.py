"""The evaluation end to end on the shipped model, small: what it measures is of the right kind and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.policy import Policy
from mechanism.baselines import gsp, segment
from simulator.clicks import ClickModel
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import RunConfig, WorldConfig
from trainers.evaluation import methods, sweeps
from trainers.evaluation.harness import evaluate_model, records_of
from trainers.evaluation.page import write_report
from trainers.evaluation.report import read_report
from trainers.irpo.session import Session
from trainers.irpo.worlds import ContextSource, build_world
from trainers.reward.model import OraclePredictor


@pytest.fixture(scope="module")
def session() -> Session:
    config = RunConfig.model_validate(
        {
            "name": "harness",
            "evaluation": {"queries": 6, "validation": 8, "swept_contexts": 3, "continuity_answers": 0},
            "epochs": 1,
        }
    )
    return Session(config, RunDirectory("memory://harness"))


def test_a_model_is_evaluated_without_baselines(session: Session) -> None:
    report = evaluate_model(session, "pretrained", lambda text: None, "test")
    assert set(report.methods) == {"pretrained"}
    assert report.methods["pretrained"]["invalid_insertions"].mean == 0
    assert report.methods["pretrained"]["generations_per_query"].mean == 1
    assert report.properties["individual_rationality"].holds
    assert {"monotonicity", "value_maximiser_ic", "exploitability", "new_titles"} <= set(report.properties)
    assert report.ratios == {}


def test_mosaic_with_the_truth_earns_at_least_what_one_sample_earns(session: Session) -> None:
    contexts = methods.with_ids(session.contexts.test(6))
    base, truth = session.policy(0), OraclePredictor(session.truth)
    one = methods.play_policy(base, contexts, 1)
    best = methods.play_mosaic(base, truth, contexts, session.penalty, 1.0, 8, base.sampling, 1)
    rewards = {
        name: np.mean([r.reward for r in records_of(session, name, contexts, played)])
        for name, played in (("pretrained", one), ("mosaic", best))
    }
    assert rewards["mosaic"] > rewards["pretrained"]
    assert all(a.generations == 8 for a in best.answers)


def test_auctions_held_before_generation_show_winners_only(session: Session) -> None:
    contexts = methods.with_ids(session.contexts.test(6))
    base, truth = session.policy(0), OraclePredictor(session.truth)
    for played in (
        methods.play_gsp(base, truth, contexts, gsp.GspSettings(slots=2), 1),
        methods.play_segment(base, contexts, segment.SegmentSettings(segments=2), 0.1, 1),
    ):
        for context, own in zip(contexts, played.answers, strict=True):
            bids = context.bids()
            assert len(own.click_prices) <= 2
            assert set(own.generation.answer.shown()) <= set(own.click_prices)
            assert all(price <= bids[ad] for ad, price in own.click_prices.items())


def test_a_sweep_changes_one_bid_and_measures_that_ad() -> None:
    contexts = ContextSource(build_world(WorldConfig()), WorldConfig(), 0, 8).test(2)
    policy, truth = Policy.load("tiny"), ClickModel()
    ads = sweeps.swept_ads(contexts, truth, 0)
    assert all(ad in c.bids() for c, ad in zip(contexts, ads, strict=True))
    table = sweeps.sweep(policy, contexts, ads, truth, 2, 0).clicks_LCA
    assert table.shape == (len(sweeps.LEVELS), 2, 2)
    assert ((table >= 0) & (table <= 1)).all()


def test_a_report_of_a_model_is_written(session: Session, tmp_path: Path) -> None:
    report = evaluate_model(session, "pretrained", lambda text: None, "test")
    write_report(report, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    assert "<svg" in (tmp_path / "report.html").read_text("utf-8")
