"""The pCTR model learns planted clicks and is calibrated; its AUC is the pairwise one; new ids are not punished."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
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
from trainers.config.schema import FEATURE_GROUPS, FeatureGroup
from trainers.reward.features import (
    OVERLAPS,
    SCALARS,
    SENTENCE_OVERLAPS,
    TEXT_WIDTH,
    TEXTS,
    extract,
    sentences,
)
from trainers.reward.model import OraclePredictor, PCTRModel
from trainers.reward.network import PCTRNetwork
from trainers.reward.training import RewardQuality, Shown, fit, measure
from trainers.reward.words import WordWeights

CONFIG = RewardConfig(batch=128)


def encode(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return shared_encoder().encode(texts)


DIRECTIONS = np.random.default_rng(3).normal(size=(12, TEXT_WIDTH)) / np.sqrt(TEXT_WIDTH)


def topical(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Unit vectors by the first digits in a text: its topic. Titles do not count."""
    topics = [re.search(r"topic (\d+)", text) for text in texts]
    vectors = [DIRECTIONS[int(t[1])] if t else np.zeros(TEXT_WIDTH) for t in topics]
    rows = np.array(vectors, np.float32).reshape(len(texts), TEXT_WIDTH)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def on_topics(number: int, suffix: str, rng: np.random.Generator) -> tuple[Context, Answer, float]:
    """An answer with one ad, of the question's topic half the time, and its click rate: 0.6 then, 0.1 otherwise."""
    asked, offered = int(rng.integers(12)), int(rng.integers(12))
    offered = asked if rng.random() < 0.5 else offered
    ad = Ad(f"a{offered}{suffix}", f"Offer {offered}{suffix}", f"topic {offered}", "somebody")
    user = Profile(f"u{rng.integers(40)}{suffix}")
    context = Context(f"c{number}", f"topic {asked}", (Candidate(ad, 10_000),), user)
    return context, parse(f"Some take @{ad.title}@[{ad.id}].", [ad]), 0.6 if asked == offered else 0.1


@pytest.fixture(scope="module")
def feedback() -> list[Shown]:
    rng = np.random.default_rng(5)
    rows = [on_topics(n, "", rng) for n in range(1500)]
    return [(c, a, {a.shown()[0]: bool(rng.random() < rate)}) for c, a, rate in rows]


@pytest.fixture(scope="module")
def fitted(feedback: list[Shown]) -> tuple[PCTRModel, RewardQuality]:
    return fit(feedback, CONFIG, topical, 2)


def test_planted_clicks_are_learned_and_calibrated(
    fitted: tuple[PCTRModel, RewardQuality], feedback: list[Shown]
) -> None:
    _, quality = fitted
    assert quality.auc > 0.7
    assert quality.calibration_error < 0.15  # mostly the noise of 20 clicks a tenth; see the next test
    rate = quality.click_rate
    assert quality.log_loss < -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert sum(quality.curve["count"]) == quality.examples
    held_out = quality.examples / sum(len(a.shown()) for _, a, _ in feedback)
    assert held_out == pytest.approx(CONFIG.members * CONFIG.validation, abs=0.05), "each member holds out a part"


def test_fitting_again_gives_the_same_model(feedback: list[Shown]) -> None:
    quick = RewardConfig(batch=128, passes=2)
    (one, quality), (again, same) = (fit(feedback[:300], quick, topical, 1) for _ in range(2))
    assert quality == same
    for name, tensor in again.network.state_dict().items():
        assert (tensor == one.network.state_dict()[name]).all(), name


def test_a_saved_model_predicts_as_before(
    fitted: tuple[PCTRModel, RewardQuality], feedback: list[Shown], tmp_path: Path
) -> None:
    model, _ = fitted
    model.save(tmp_path, CONFIG)
    pairs = [(c, a) for c, a, _ in feedback[:40]]
    assert PCTRModel.load(tmp_path, topical).probabilities(pairs) == model.probabilities(pairs)


def test_predictions_follow_the_truth_on_new_queries() -> None:
    rng, world, truth = np.random.default_rng(0), World(0, profiles=200), ClickModel()

    def written(query: Query) -> list[tuple[Context, Answer]]:
        context = world.sample_context(query, rng, 8)
        answers = [f"{query.text} For that, some take @{c.ad.title}@[{c.ad.id}]." for c in context.candidates]
        return [(context, parse(answer, [c.ad for c in context.candidates])) for answer in answers]

    asked = [pair for query in world.train_queries[:200] for pair in written(query)]
    model, _ = fit([(c, a, truth.click(truth.probabilities(c, a), rng)) for c, a in asked], CONFIG, encode, 1)
    pairs = [pair for query in world.test_queries[:60] for pair in written(query)]
    learned, true = model.probabilities(pairs), OraclePredictor(truth).probabilities(pairs)
    assert [set(p) for p in learned] == [set(p) for p in true] == [set(a.shown()) for _, a in pairs]
    predicted, expected = np.array([(p[i], t[i]) for p, t in zip(learned, true, strict=True) for i in p]).T
    assert np.corrcoef(predicted, expected)[0, 1] > 0.5


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
        fit(feedback[:10], CONFIG, topical, 1)
    with pytest.raises(InputError, match=r"feedback: '0 shown ads, 0 clicks'"):
        fit([], CONFIG, topical, 1)
    unclicked = [(c, a, dict.fromkeys(clicks, False)) for c, a, clicks in feedback]
    with pytest.raises(InputError, match="some clicked and some not"):
        fit(unclicked, CONFIG, topical, 1)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no readable pCTR model"):
        PCTRModel.load(tmp_path, encode)
    (tmp_path / "pctr.json").write_text("[]")
    with pytest.raises(PolicyError, match="no readable pCTR model"):
        PCTRModel.load(tmp_path, encode)


def test_features_are_the_texts_that_surround_an_ad() -> None:
    lamp, torch_ad = Ad("a1", "Lumo", "Lamps.", "lumo", "lighting"), Ad("a2", "Beam", "Torches.", "beam", "lighting")
    profile = Profile("u1", interests=("reading", "camping"), history=("read about tents",))
    turns = (("user", "Hello."), ("assistant", "Good evening."))
    context = Context("c", "Which lamp?", (Candidate(lamp, 10_000), Candidate(torch_ad, 10_000)), profile, turns)
    answer = parse("It depends. Try @Lumo@[a1] first! Or @Beam@[a2].", [lamp, torch_ad])
    pairs = [(context, parse("No ad fits.", [lamp])), (context, answer)]
    features = extract(pairs, encode, WordWeights({}, 1.0).cosine)
    assert (features.users_N, features.ads_N, features.owner_N.tolist()) == (["u1", "u1"], ["a1", "a2"], [1, 1])

    def close(name: str, row: int, *texts: str) -> None:
        mean = encode(list(texts)).sum(0)
        assert np.allclose(features.texts_NKD[row, TEXTS.index(name)], mean / np.linalg.norm(mean), atol=1e-5), name

    close("query", 0, "Which lamp?")
    close("conversation", 0, "Hello.", "Good evening.")
    for row, offer in ((0, "Lamps."), (1, "Torches.")):
        interests = encode(profile.interests)
        close("interests", row, profile.interests[int((interests @ encode([offer])[0]).argmax())])
    close("history", 0, "read about tents")
    close("answer", 0, "It depends.", "Try it first!", "Or it.")
    close("sentence", 0, "Try it first!")
    close("sentence", 1, "Or it.")
    close("before", 1, "It depends.", "Try it first!")
    close("title", 0, "Lumo")
    close("offer", 0, "Lamps.")
    close("others", 0, "Torches.")
    numbers = dict(zip(SCALARS, features.scalars_NS[1].tolist(), strict=True))
    assert numbers == pytest.approx(
        {"ads": 2, "repeats": 0, "place": 1, "sentence": 2, "sentences": 3, "words": 0.07}
        | {"profile": 1, "turns": 2, "same_category": 1}
        | dict.fromkeys((*OVERLAPS, *SENTENCE_OVERLAPS), 0.0)
    )
    numbers = dict(zip(SCALARS, features.scalars_NS[0].tolist(), strict=True))
    # "Which lamp?" and "Lamps." share one of two words; the sentence shares none with either.
    assert numbers["query_overlap"] == pytest.approx(1 / np.sqrt(2))
    assert numbers["sentence_overlap"] == numbers["topic_overlap"] == 0
    assert extract([], encode, WordWeights({}, 1.0).cosine).texts_NKD.shape == (0, *features.texts_NKD.shape[1:])


def test_without_consent_and_conversation_their_vectors_are_zero() -> None:
    ad = Ad("a1", "Lumo", "Lamps.", "lumo")
    context = Context("c", "Which lamp?", (Candidate(ad, 1),))
    features = extract([(context, parse("Try @Lumo@[a1].", [ad]))], encode, WordWeights({}, 1.0).cosine)
    for name in ("conversation", "interests", "history", "before", "others"):
        assert not features.texts_NKD[0, TEXTS.index(name)].any(), name
    assert features.users_N == [""]


@given(
    st.lists(st.sampled_from(["One fits. ", "What else?\n", "@Dr. Lumo! Now@[a1] ", "so so ", "End.  "]), max_size=8)
)
def test_sentences_are_in_order_and_cut_no_title(parts: list[str]) -> None:
    answer = parse("".join(parts), [Ad("a1", "Dr. Lumo! Now", "Lamps.", "lumo")])
    spans = sentences(answer)
    assert all(start < end for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    for insertion in answer.insertions:
        assert sum(start <= insertion.start and insertion.end <= end for start, end in spans) == 1
    assert "".join("".join(answer.text[i:j] for i, j in spans).split()) == "".join(answer.text.split())


def test_new_users_and_ads_are_predicted_as_known_ones_with_the_same_texts(
    fitted: tuple[PCTRModel, RewardQuality],
) -> None:
    model, _ = fitted

    def predicted(suffix: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        rng = np.random.default_rng(6)
        pairs = [on_topics(n, suffix, rng)[:2] for n in range(600)]
        return np.array([p for own in model.probabilities(pairs) for p in own.values()])

    known, new = predicted(""), predicted("-new")
    assert new.mean() == pytest.approx(known.mean(), rel=0.02)
    assert np.abs(new - known).mean() < 0.05


def test_a_comparison_of_texts_is_learned_from_a_thousand_clicks(fitted: tuple[PCTRModel, RewardQuality]) -> None:
    rng = np.random.default_rng(7)
    rows = [on_topics(n, "-new", rng) for n in range(600)]
    predicted = np.array([p for own in fitted[0].probabilities([r[:2] for r in rows]) for p in own.values()])
    rates = np.array([rate for *_, rate in rows])
    assert predicted[rates == 0.6].mean() == pytest.approx(0.6, abs=0.08)
    assert predicted[rates == 0.1].mean() == pytest.approx(0.1, abs=0.05)


def test_a_group_that_is_switched_off_changes_no_prediction() -> None:
    rng = np.random.default_rng(8)
    rows = [on_topics(n, "", rng) for n in range(300)]
    shown = [(c, a, {a.shown()[0]: bool(rng.random() < rate)}) for c, a, rate in rows]
    off: dict[str, tuple[FeatureGroup, ...]] = {
        group: tuple(g for g in FEATURE_GROUPS if g != group) for group in ("ad", "ids", "query")
    }
    models = {group: fit(shown, RewardConfig(features=kept, passes=3), topical, 1)[0] for group, kept in off.items()}
    context, answer, _ = rows[0]
    (candidate,) = context.candidates
    other_text = replace(context, candidates=(replace(candidate, ad=replace(candidate.ad, text="topic 11")),))
    changed = {"ad": other_text, "ids": replace(context, profile=Profile("u99")), "query": replace(context, query="?")}
    for group, model in models.items():
        before, after = model.probabilities([(context, answer), (changed[group], answer)])
        assert before == pytest.approx(after, abs=1e-7), group
        whole = next(m for g, m in models.items() if g != group)
        before, after = whole.probabilities([(context, answer), (changed[group], answer)])
        assert before != pytest.approx(after, abs=1e-7), group


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


def test_shared_words_are_read_only_with_both_of_the_texts() -> None:
    def numbers(*features: FeatureGroup) -> set[str]:
        [member] = PCTRNetwork(1, 1, RewardConfig(features=features, members=1)).members
        return {SCALARS[int(k)] for k in member.scalars}

    assert numbers("query", "answer", "ids") == set()
    assert numbers("query", "ad") == {"query_overlap"}
    assert numbers("query", "sentence") == {"topic_overlap"}
    assert numbers(*FEATURE_GROUPS) == set(SCALARS)
