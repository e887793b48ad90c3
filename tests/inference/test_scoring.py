"""Scoring inverts sampling: it reproduces recorded probabilities, and weights between samplers have mean one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.policy import Policy
from inference.sampling import SamplingSettings
from inference.scoring import Sampler, compare, score
from mechanism.errors import InputError
from mechanism.types import Context, Generation

from .conftest import byte_tokenizer, make_context, random_policy

LONG = make_context(query="Which shoes are good for muddy trails, flat feet, rain and a first marathon?", name="long")
TWO = make_context(["Nest", "Kestrel Shoes", "Kestrel"], query="Hi", name="two")
ALL = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=24)


def sampler(policy: Policy, **changes: Any) -> Sampler:
    return Sampler(policy, replace(ALL, **changes))


def drawn(own: Sampler, contexts: list[Context], samples: int, seed: int = 0) -> tuple[list[Context], list[Generation]]:
    answers = own.policy.generate(contexts, samples, seed, own.settings)
    return [c for c in contexts for _ in range(samples)], [g for some in answers for g in some]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
        {"temperature": 1.3, "top_k": 7, "max_ads": 1},
        {"top_p": 0.6},
        {"temperature": 0.0},
    ],
)
@pytest.mark.parametrize("style", ["worded", "fused", "blanked"])
def test_scoring_reproduces_what_sampling_recorded(
    request: pytest.FixtureRequest, style: str, changes: dict[str, Any]
) -> None:
    own = sampler(request.getfixturevalue(style), **changes)
    titles = make_context(["Nest", "A1", "Kestrel", "Kestrel Shoes"])
    contexts, answers = drawn(own, [titles, TWO], 12)
    for answer, scored in zip(answers, score(own, contexts, answers), strict=True):
        assert scored.logprob == pytest.approx(answer.logprob, abs=1e-3)
        assert scored.logprob <= scored.ads_logprob + 1e-9
        assert [(c.chosen, c.exact) for c in scored.choices] == [(c.chosen, c.exact) for c in answer.choices]
        for found, recorded in zip(scored.choices, answer.choices, strict=True):
            assert found.probabilities == pytest.approx(dict(recorded.probabilities), abs=1e-5)
    assert own.settings.temperature == 0 or any(g.choices for g in answers)


def test_a_score_does_not_depend_on_the_batch(worded: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    own = sampler(worded)
    contexts, answers = drawn(own, [make_context(), LONG, TWO], 4)
    together = score(own, contexts, answers)
    monkeypatch.setattr("inference.scoring.CELLS_AT_ONCE", 1)
    for one, other in zip(score(own, contexts, answers), together, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_weights_to_another_policy_have_mean_one_at_both_levels(worded: Policy) -> None:
    logging = sampler(worded)
    target = sampler(random_policy(byte_tokenizer(words=True), eager=3.3), temperature=0.95)
    contexts, answers = drawn(logging, [TWO], 1500, seed=2)
    found = compare(logging, target, contexts, answers)
    whole = np.exp([c.target.logprob - c.logged.logprob for c in found])
    ads = np.exp([c.target.ads_logprob - c.logged.ads_logprob for c in found])
    for weights in (whole, ads):
        assert abs(weights.mean() - 1.0) < 4 * weights.std() / math.sqrt(len(weights))
        assert weights.std() > 0.05
    assert ads.std() < whole.std()
    assert {c.unsupported for c in found} == {c.ads_unsupported for c in found} == {0.0}


@pytest.mark.parametrize(
    ("logging", "target"),
    [
        ({"top_k": 40}, {}),
        ({"top_p": 0.9}, {}),
        ({"max_ads": 1}, {}),
        ({"max_new_tokens": 20}, {}),
        ({"top_p": 0.9, "max_ads": 1, "max_new_tokens": 20}, {"top_p": 0.97}),
    ],
)
def test_the_probability_that_the_logging_policy_never_draws_is_counted(
    worded: Policy, logging: dict[str, Any], target: dict[str, Any]
) -> None:
    own = sampler(worded, **logging)
    contexts, answers = drawn(own, [TWO], 700, seed=3)
    found = compare(own, sampler(worded, **target), contexts, answers)
    weights = np.exp([c.target.logprob - c.logged.logprob for c in found])
    ads = np.exp([c.target.ads_logprob - c.logged.ads_logprob for c in found])
    for some, lost in ((weights, [c.unsupported for c in found]), (ads, [c.ads_unsupported for c in found])):
        total = some + np.array(lost)
        # Weights and lost probability add up to all of the target's answers.
        assert abs(total.mean() - 1.0) < 4 * total.std() / math.sqrt(len(total)) + 1e-6
    assert np.mean([c.unsupported for c in found]) > 0.02


def test_a_narrower_target_loses_no_probability_but_cannot_write_every_answer(worded: Policy) -> None:
    logging, target = sampler(worded), sampler(worded, max_ads=1, max_new_tokens=22, top_p=0.9)
    contexts, answers = drawn(logging, [TWO], 300, seed=4)
    found = compare(logging, target, contexts, answers)
    assert all(c.unsupported == 0.0 for c in found)
    for answer, c in zip(answers, found, strict=True):
        if len(answer.choices) > 1 or len(worded.answer_ids(answer)) > 22:
            assert c.target.logprob == -math.inf
    assert any(len(a.choices) > 1 for a in answers)
    assert any(math.isfinite(c.target.logprob) for c in found)


def test_an_interrupted_and_a_foreign_answer_have_probability_zero(worded: Policy) -> None:
    own = sampler(worded)
    contexts, answers = drawn(own, [make_context()], 20)
    answer = next(a for a in answers if a.choices and a.finished)
    cut = replace(answer, finished=False)
    assert score(own, [contexts[0]], [cut])[0].logprob == -math.inf
    fewer = make_context(["Nest"])
    assert score(own, [fewer], [answer])[0].logprob == -math.inf


def test_policies_without_propensities_or_with_another_tokenizer_are_refused(worded: Policy, fused: Policy) -> None:
    contexts, answers = drawn(sampler(worded), [TWO], 1)
    with pytest.raises(InputError, match="constraint"):
        score(sampler(worded, constrained=False), contexts, answers)
    with pytest.raises(InputError, match="tokenizer"):
        compare(sampler(worded), sampler(fused), contexts, answers)
    with pytest.raises(InputError, match="one for each"):
        score(sampler(worded), contexts * 2, answers)
