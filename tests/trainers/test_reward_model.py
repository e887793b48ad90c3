"""The pCTR model learns planted clicks and is calibrated; its AUC is the pairwise one; files and strangers are safe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.encoder import shared_encoder
from mechanism.errors import InputError, PolicyError
from mechanism.markers import parse
from mechanism.types import Ad, Answer, Candidate, Context, Profile
from simulator.clicks import ClickModel
from simulator.world import Query, World
from trainers.config import RewardConfig
from trainers.pretraining.corpus import answer_exercise
from trainers.reward.features import carrying_sentence, extract
from trainers.reward.model import OraclePredictor, PCTRModel
from trainers.reward.training import RewardQuality, Shown, fit, measure

WORLD = World(0, profiles=200)
CONFIG = RewardConfig(passes=8)
TRUTH = ClickModel()


def encode(texts: object) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return shared_encoder().encode(list(texts))  # type: ignore[call-overload]


def written(query: Query, answers: int, rng: np.random.Generator) -> list[tuple[Context, Answer]]:
    """Answers of the corpus, their ads chosen by relevance."""
    relevance = TRUTH.relevance(Context(query.id, query.text, (), query.profile), list(WORLD.ads))
    exercise = answer_exercise(WORLD, query, 12, answers, relevance, rng)
    ads = [c.ad for c in exercise.context.candidates]
    return [(exercise.context, parse(raw, ads)) for raw in exercise.answers]


@pytest.fixture(scope="module")
def feedback() -> list[Shown]:
    """Answers of the corpus, clicked as the ground truth says."""
    rng = np.random.default_rng(0)
    pairs = [pair for query in WORLD.train_queries[:600] for pair in written(query, 2, rng)]
    return [(c, a, TRUTH.click(TRUTH.probabilities(c, a), rng)) for c, a in pairs]


@pytest.fixture(scope="module")
def fitted(feedback: list[Shown]) -> tuple[PCTRModel, RewardQuality]:
    return fit(feedback, CONFIG, encode, 1)


def test_planted_clicks_are_learned_and_calibrated(
    fitted: tuple[PCTRModel, RewardQuality], feedback: list[Shown]
) -> None:
    _, quality = fitted
    assert quality.auc > 0.7
    assert quality.calibration_error < 0.15  # mostly the noise of 20 clicks a tenth; see the next test
    rate = quality.click_rate
    assert quality.log_loss < -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert sum(quality.curve["count"]) == quality.examples
    assert 100 < quality.examples < 0.2 * sum(len(a.shown()) for _, a, _ in feedback)


def test_predictions_follow_the_truth_on_new_queries(fitted: tuple[PCTRModel, RewardQuality]) -> None:
    model, _ = fitted
    rng = np.random.default_rng(9)
    pairs = [pair for query in WORLD.test_queries[:150] for pair in written(query, 1, rng)]
    learned, true = model.probabilities(pairs), OraclePredictor(TRUTH).probabilities(pairs)
    assert [set(p) for p in learned] == [set(p) for p in true] == [set(a.shown()) for _, a in pairs]
    predicted, expected = np.array([(p[i], t[i]) for p, t in zip(learned, true, strict=True) for i in p]).T
    assert np.corrcoef(predicted, expected)[0, 1] > 0.45
    assert measure(predicted, expected.astype(np.float32)).calibration_error < 0.08


def test_fitting_again_gives_the_same_model(fitted: tuple[PCTRModel, RewardQuality], feedback: list[Shown]) -> None:
    again, quality = fit(feedback, CONFIG, encode, 1)
    assert quality == fitted[1]
    for name, tensor in again.network.state_dict().items():
        assert (tensor == fitted[0].network.state_dict()[name]).all(), name


def test_a_saved_model_predicts_as_before(
    fitted: tuple[PCTRModel, RewardQuality], feedback: list[Shown], tmp_path: Path
) -> None:
    model, _ = fitted
    model.save(tmp_path, CONFIG)
    pairs = [(c, a) for c, a, _ in feedback[:40]]
    assert PCTRModel.load(tmp_path, encode).probabilities(pairs) == model.probabilities(pairs)


def test_users_and_ads_that_were_never_seen_get_a_probability(fitted: tuple[PCTRModel, RewardQuality]) -> None:
    model, _ = fitted
    stranger = Ad("new-1", "Hearth Kettle", "Kettles for a quick cup of tea.", "hearth")
    context = Context("c", "Which kettles are good for tea?", (Candidate(stranger, 10_000),), Profile("nobody"))
    answer = parse("A quick one helps. For tea, many like @Hearth Kettle@[new-1].", [stranger])
    first = model.probabilities([(context, answer), (replace(context, profile=None), answer)])
    assert all(0 < p["new-1"] < 1 for p in first)
    plain = parse("No offer fits.", [stranger])
    assert model.probabilities([(context, plain)]) == [{}]
    assert model.probabilities([]) == []


def test_too_little_feedback_is_refused(feedback: list[Shown]) -> None:
    with pytest.raises(InputError, match=r"feedback: '\d+ shown ads, \d+ clicks': at least 50 shown ads"):
        fit(feedback[:10], CONFIG, encode, 1)
    with pytest.raises(InputError, match=r"feedback: '0 shown ads, 0 clicks'"):
        fit([], CONFIG, encode, 1)
    unclicked = [(c, a, dict.fromkeys(clicks, False)) for c, a, clicks in feedback]
    with pytest.raises(InputError, match="some clicked and some not"):
        fit(unclicked, CONFIG, encode, 1)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no readable pCTR model"):
        PCTRModel.load(tmp_path, encode)
    (tmp_path / "pctr.json").write_text("[]")
    with pytest.raises(PolicyError, match="no readable pCTR model"):
        PCTRModel.load(tmp_path, encode)


def test_features_know_the_carrying_sentence() -> None:
    ad = Ad("a1", "Lumo", "Lamps.", "lumo")
    context = Context("c", "Which lamp?", (Candidate(ad, 10_000),))
    answer = parse("It depends. Try @Lumo@[a1] first! Then read on.", [ad])
    assert carrying_sentence(answer, "a1") == ("Try it first!", 1, 0.0)
    features = extract([(context, answer)], encode)
    assert (features.users_N, features.ads_N, features.owner_N.tolist()) == ([""], ["a1"], [0])
    assert len(features.dense_ND) == 1
    assert extract([], encode).dense_ND.shape == (0, features.dense_ND.shape[1])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_ranked_right(rows: list[tuple[float, bool]]) -> None:
    p = np.array([r[0] for r in rows])
    clicks = np.array([r[1] for r in rows], np.float32)
    quality = measure(p, clicks)
    positive, negative = p[clicks == 1], p[clicks == 0]
    if len(positive) and len(negative):
        pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in positive for b in negative]
        assert quality.auc == pytest.approx(np.mean(pairs))
    else:
        assert quality.auc == 0.5
    assert sum(quality.curve["count"]) == len(rows)
    assert np.isfinite(quality.log_loss)


def test_a_perfect_forecaster_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    good = measure(p, (rng.random(20_000) < p).astype(np.float32))
    bad = measure(p, (rng.random(20_000) < p / 2).astype(np.float32))
    assert good.calibration_error < 0.02
    assert bad.calibration_error > 0.2
