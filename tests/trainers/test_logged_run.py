"""A run on logged answers: a snapshot that stays, a held-out part that nothing is fitted to, contexts and bids of the
log, and nowhere a look at the simulator's truth."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from cli.train import run_training
from inference.policy import Policy
from mechanism.errors import ConfigError, InputError
from simulator.world import World
from streaming.lake import Row, TrainingSet, Versions
from tests.trainers.logged_traffic import BEGINNING, WINDOW_S, served, write
from trainers.artifacts.run_directory import RunDirectory
from trainers.artifacts.sampled import read_sampled
from trainers.config import FeedbackConfig, RunConfig, parse_config
from trainers.irpo.loop import best_epoch
from trainers.irpo.session import Session
from trainers.logs.snapshot import LOGGED, LoggedContexts, fitted_part, read_snapshot, take_snapshot

WORLD = World(0, profiles=30)
CONFIG = """
name: logged
base: tiny
epochs: 1
feedback: {{source: lake, path: {lake}, contexts: 1000, held_out: 0.3}}
reward: {{passes: 3}}
rollout: {{contexts: 30, samples: 4}}
penalty: {{per_ad: 5.0}}
preference: {{delta: 1.0, counterfactual_bids: 1}}
optimisation: {{learning_rate: 1.0e-3, batch: 8, batch_per_process: 8, warm_up: 0.0}}
guards: {{min_ads_per_answer: 0, max_kl_to_base: 1.0e+6}}
evaluation: {{validation: 20}}
"""


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return served(Policy.load("tiny"), WORLD, 240, digest="d" * 64, ad_load=0.5, rate=0.4)


@pytest.fixture(scope="module")
def lake(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("log") / "lake")
    write(url, rows)
    return url


@pytest.fixture(scope="module")
def run(lake: str, tmp_path_factory: pytest.TempPathFactory) -> Session:
    config = parse_config(CONFIG.format(lake=lake), "logged.yaml")
    url = str(tmp_path_factory.mktemp("runs") / "logged")
    run_training(config, url)
    return session(config, url)


def session(config: RunConfig, url: str) -> Session:
    return Session(config, RunDirectory(url))


def test_the_run_learns_from_the_log_without_the_truth(run: Session, rows: list[Row]) -> None:
    answers, seen = run.logged
    assert [a.context.id for a in answers] == [r.auction_id for r in rows]
    assert seen == pytest.approx(1.0, abs=0.01)
    figures = run.read_epoch_json("evaluation.json", 1)
    assert figures["revenue"] is figures["true_reward"] is None
    assert figures["learned_reward"] != run.read_epoch_json("evaluation.json", 0)["learned_reward"]
    assert best_epoch(run) in (0, 1)
    with pytest.raises(ConfigError, match="no true click probabilities"):
        _ = run.truth
    with pytest.raises(ConfigError, match="llm-auction evaluate MODEL"):
        run.test_contexts(3)


def test_what_is_held_out_is_neither_fitted_nor_rolled_out(run: Session) -> None:
    answers, seen = run.logged
    held = {a.context.id for a in answers if a.held_out}
    assert 0.2 < len(held) / len(answers) < 0.4
    shown, shares = fitted_part(answers, seen)
    assert len(shown) == len(shares) == len(answers) - len(held)
    assert not held & {c.id for c, _, _ in shown}
    rolled = read_sampled(run.run.phase("rollouts", 1).fetch() / "answers.parquet")
    assert not held & {item.context.id for item in rolled}
    assert {c.id for c in run.contexts.validation()} <= held


def test_rollouts_have_bids_of_the_log_before_the_ad_load(run: Session, rows: list[Row]) -> None:
    made = {c.bid_micros for r in rows for c in r.interaction.candidates}
    shown = {c.shown_bid_micros for r in rows for c in r.interaction.candidates}
    rolled = read_sampled(run.run.phase("rollouts", 1).fetch() / "answers.parquet")
    drawn = {c.bid for item in rolled for c in item.context.candidates}
    assert drawn <= made
    assert not drawn <= shown
    answers = run.logged[0]
    contexts = LoggedContexts(answers, 0, 10, fresh_bids=False)
    by_id = {a.context.id: a for a in answers}
    as_bid = contexts.training(10_000, 1, 4)
    assert len(as_bid) == len({c.id for c in as_bid}) < len(answers), "as it was bid, no context comes twice"
    assert all(c.bids() == by_id[c.id].bids for c in as_bid)
    fresh = run.contexts.training(500, 1, 4)
    assert len(fresh) == 500
    assert fresh == run.contexts.training(500, 1, 4)


def test_the_snapshot_outlives_what_happens_to_the_log(run: Session, rows: list[Row], tmp_path: Path) -> None:
    url = str(tmp_path / "lake")
    write(url, rows[:200])
    config = FeedbackConfig(source="lake", path=url, contexts=150, held_out=0.4)
    take_snapshot(config, tmp_path)
    before = read_snapshot(tmp_path / LOGGED)[0]
    assert [a.context.id for a in before] == [r.auction_id for r in rows[50:200]], "the newest"
    write(url, rows[200:])
    assert read_snapshot(tmp_path / LOGGED)[0] == before
    about = json.loads((tmp_path / "about.json").read_text())
    assert (about["answers"], about["beyond_the_newest"]) == (150, 50)


def test_answers_too_young_to_tell_are_left_out_and_counted(rows: list[Row], tmp_path: Path) -> None:
    url = str(tmp_path / "lake")
    # read at once, so that the last ones had no time to be clicked
    early = [_without_later_clicks(row, rows[-1].interaction.occurred_at) for row in rows]
    write(url, early, watermark=rows[-1].interaction.occurred_at)
    summary = take_snapshot(FeedbackConfig(source="lake", path=url, contexts=1000, min_seen=0.3), tmp_path)
    answers, seen = read_snapshot(tmp_path / LOGGED)
    assert 0 < len(rows) - len(answers) < 20
    assert (seen >= 0.3).all()
    assert (seen[:100] > 0.95).all()
    assert f"({len(rows) - len(answers)} too young)" in summary


def test_too_little_or_nothing_is_refused_with_what_was_found(rows: list[Row], tmp_path: Path) -> None:
    url = str(tmp_path / "lake")
    with pytest.raises(InputError, match=r"feedback.path: .*no lake is there"):
        take_snapshot(FeedbackConfig(source="lake", path=url), tmp_path)
    write(url, rows)
    with pytest.raises(InputError, match=r"lake: .* shown ads with \d+ clicks held out.*wait for more traffic"):
        take_snapshot(FeedbackConfig(source="lake", path=url, held_out=0.02), tmp_path)
    late = BEGINNING + timedelta(days=30)
    with pytest.raises(InputError, match=r"of 0 usable answers.*widen feedback.since"):
        take_snapshot(FeedbackConfig(source="lake", path=url, since=late), tmp_path)
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_snapshot_records_the_versions_that_it_read(rows: list[Row], tmp_path: Path) -> None:
    url = str(tmp_path / "lake")
    write(url, rows[:150])
    take_snapshot(FeedbackConfig(source="lake", path=url, held_out=0.4), tmp_path)
    pinned = json.loads((tmp_path / "about.json").read_text())["lake"]
    write(url, rows[150:])
    assert pinned["window_s"] == WINDOW_S
    again = TrainingSet(url, versions=msgspec.convert({k: pinned[k] for k in Versions.__struct_fields__}, Versions))
    assert [row.auction_id for row in again.rows()] == [row.auction_id for row in rows[:150]]
    assert again.watermark() == rows[149].interaction.occurred_at + timedelta(seconds=WINDOW_S)


def _without_later_clicks(row: Row, until: datetime) -> Row:
    answered_at = row.interaction.occurred_at
    seen = {ad: s for ad, s in row.clicked_after_s.items() if answered_at + timedelta(seconds=s) <= until}
    return replace(row, clicked_after_s=seen)
