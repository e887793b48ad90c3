"""The evaluation end to end on the shipped model, small: what it measures is of the right kind and order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.policy import Policy
from mechanism.baselines import gsp, lera, segment, token
from mechanism.objective import Penalty
from simulator.clicks import ClickModel
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import EvaluationConfig, RunConfig, WorldConfig, load_config
from trainers.evaluation import methods, sweeps
from trainers.evaluation.best_of_many import draw, play_mosaic
from trainers.evaluation.comparison import records_of
from trainers.evaluation.harness import evaluate_model
from trainers.evaluation.page import write_report
from trainers.evaluation.report import read_report
from trainers.evaluation.rivals import Gsp, HighestBids, Lera, MostRelevant, Rival, Segment, Token
from trainers.evaluation.tuning import grids, mosaic_grid, tune
from trainers.irpo.session import Session
from trainers.irpo.worlds import ContextSource, build_world
from trainers.reward.model import OraclePredictor


@pytest.fixture(scope="module")
def session() -> Session:
    config = RunConfig.model_validate(
        {
            "name": "harness",
            "evaluation": {"queries": 6, "validation": 8, "swept_contexts": 3, "continuity_queries": 0},
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


@pytest.fixture(scope="module")
def arena(session: Session) -> methods.Arena:
    return methods.Arena(session.policy(0), OraclePredictor(session.truth), session.penalty, 1.0)


def test_mosaic_earns_more_from_more_of_the_same_samples(session: Session, arena: methods.Arena) -> None:
    contexts = methods.with_ids(session.test_contexts(6))
    drawn = draw(arena, contexts, 8, arena.policy.sampling, 1)
    rewards = {}
    for m in (1, 4, 8):
        played = play_mosaic(arena, contexts, drawn, m, 1)
        assert all(a.generations == m for a in played.answers)
        assert played.seconds == pytest.approx(drawn.seconds * m / 8)
        rewards[m] = np.mean([r.reward for r in records_of(session, f"mosaic_{m}", contexts, played)])
    assert rewards[1] < rewards[8]
    assert rewards[1] <= rewards[4] <= rewards[8]


def test_every_rival_shows_all_of_its_winners_and_charges_at_most_their_bids(
    session: Session, arena: methods.Arena
) -> None:
    contexts = methods.with_ids(session.test_contexts(6))
    sampling = replace(arena.policy.sampling, temperature=0.5)
    forced: dict[str, Rival] = {
        "most_relevant": MostRelevant("pctr", sampling),
        "highest_bids": HighestBids(sampling),
        "gsp": Gsp(gsp.GspSettings(slots=2), sampling),
        "segment": Segment(segment.SegmentSettings(segments=2), 0.1, sampling),
        "lera": Lera(lera.LeraSettings(candidates=4, slots=2), 0.1, sampling),
    }
    for name, rival in forced.items():
        played = rival.play(arena, contexts, 1)
        assert len(played.answers) == len(contexts)
        for context, own in zip(contexts, played.answers, strict=True):
            bids = context.bids()
            assert own.generation.answer.faults == ()
            assert set(own.generation.answer.shown()) == set(own.click_prices), name
            assert len(own.click_prices) <= 2
            assert own.generations == 1
            assert all(price <= bids[ad] for ad, price in own.click_prices.items())


def test_winners_of_segments_are_shown_in_the_order_of_their_segments(session: Session, arena: methods.Arena) -> None:
    contexts = methods.with_ids(session.test_contexts(4))
    played = Segment(segment.SegmentSettings(segments=3), 0.1, arena.policy.sampling).play(arena, contexts, 3)
    for own in played.answers:
        assert own.generation.answer.shown() == tuple(own.click_prices)


def test_the_token_auction_costs_a_generation_for_each_advertiser(session: Session, arena: methods.Arena) -> None:
    contexts = methods.with_ids(session.test_contexts(4))
    played = Token(token.TokenSettings(advertisers=3), 0.1, arena.policy.sampling).play(arena, contexts, 1)
    assert [own.generations for own in played.answers] == [3] * 4
    assert all(own.generation.answer.faults == () for own in played.answers)
    assert any(own.generation.answer.shown() for own in played.answers)


def test_tuning_keeps_the_settings_of_the_highest_reward_and_counts_all(session: Session, arena: methods.Arena) -> None:
    contexts = methods.with_ids(session.contexts.validation())
    sampling = replace(arena.policy.sampling, temperature=0.2)
    # A reserve above every score shows nothing; without a penalty any ad earns more than that.
    arena = replace(arena, penalty=Penalty(per_ad=0.0, per_extra_ad=0.0, per_fault=0.0))
    grid = [Gsp(gsp.GspSettings(2, reserve), sampling) for reserve in (10**9, 0)]
    tuned = tune(arena, grid, contexts, 1, EvaluationConfig())
    assert tuned.tried == 2
    assert tuned.chosen == grid[1]
    assert tuned.reward == methods.learned_reward(arena, contexts, grid[1].play(arena, contexts, 1).answers)
    assert tuned.reward > 0


def test_every_grid_is_at_least_as_large_as_our_own_budget() -> None:
    sampling = Policy.load("tiny").sampling
    quick = load_config("quick", [])
    ours = 1 + quick.epochs + len(quick.evaluation.temperatures)
    sizes = {name: len(grid) for name, grid in grids(sampling).items()} | {"mosaic": len(mosaic_grid(sampling))}
    assert min(sizes.values()) >= ours, sizes


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
