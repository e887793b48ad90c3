"""Each loss has the value that its formula gives, and its gradient moves answers towards their rewards."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.config import OptimisationConfig
from trainers.optimisation.losses import LOSSES, ScoredAnswers, loss_of, winner_margins

METHODS: tuple[dict[str, Any], ...] = (
    {"loss": "sigmoid"},
    {"loss": "margin"},
    {"objective": "winners"},
    {"objective": "rloo"},
)


def config_of(**settings: Any) -> OptimisationConfig:
    return OptimisationConfig.model_validate({"beta": 0.5, "reward_scale": 10.0, **settings})


def answers_of(
    logprobs: list[list[float]],
    rewards: list[list[float]],
    present: list[list[bool]] | None = None,
    sampling: list[list[float]] | None = None,
    reference: list[list[float]] | None = None,
) -> ScoredAnswers:
    zeros = torch.zeros(len(logprobs), len(logprobs[0]))
    return ScoredAnswers(
        logprobs_BK=torch.tensor(logprobs, requires_grad=True),
        reference_BK=zeros if reference is None else torch.tensor(reference),
        sampling_BK=zeros if sampling is None else torch.tensor(sampling),
        rewards_BK=torch.tensor(rewards),
        lengths_BK=zeros + 4.0,
        present_BK=zeros == 0 if present is None else torch.tensor(present),
    )


def gradient(answers: ScoredAnswers, config: OptimisationConfig) -> list[list[float]]:
    loss_of(config)(answers, config).backward()
    assert answers.logprobs_BK.grad is not None
    found: list[list[float]] = answers.logprobs_BK.grad.tolist()
    return found


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_two_answers_a_step_down_the_loss_raises_the_better_one(method: dict[str, Any]) -> None:
    config = config_of(**method)
    answers = answers_of([[0.0, 0.0]], [[20.0, 5.0]])
    (better, worse), *_ = gradient(answers, config)
    assert better < 0
    assert worse >= 0 if method == {"objective": "winners"} else worse > 0
    stepped = answers_of([[-0.1 * better, -0.1 * worse]], [[20.0, 5.0]])
    assert loss_of(config)(stepped, config).item() < loss_of(config)(answers, config).item()


def test_every_configuration_has_a_loss_of_its_own() -> None:
    assert len({loss_of(config_of(**method)) for method in METHODS}) == len(LOSSES) == len(METHODS)


def test_a_group_counts_once_however_many_losers_it_has() -> None:
    present = [[True, True, False], [True, True, True]]
    answers = answers_of([[0.0, -1.0, 0.0], [0.0, -3.0, -2.0]], [[0.0] * 3] * 2, present)
    loss = LOSSES["sigmoid"](answers, config_of())
    margins, counts = winner_margins(answers, 0.5)

    def cost(margin: float) -> float:
        return math.log1p(math.exp(-margin))

    assert loss.item() == pytest.approx((cost(0.5) + (cost(1.5) + cost(1.0)) / 2) / 2)
    assert margins[counts].tolist() == pytest.approx([0.5, 1.5, 1.0])


def test_the_winner_is_learned_by_likelihood_per_token_where_that_is_weighted() -> None:
    for loss in ("sigmoid", "margin"):
        answers = answers_of([[-8.0, -9.0]], [[20.0, 5.0]])
        plain, weighted = (LOSSES[loss](answers, config_of(sft_weight=w)) for w in (0.0, 0.5))
        assert (weighted - plain).item() == pytest.approx(0.5 * 8.0 / 4)
    assert LOSSES["winners"](answers, config_of()).item() == pytest.approx(8.0 / 4)


@given(
    st.lists(st.floats(-60, 120), min_size=2, max_size=5),
    st.floats(0.05, 2.0),
    st.floats(1.0, 30.0),
    st.floats(-5.0, 5.0),
)
def test_margin_is_least_where_log_ratios_differ_by_the_rewards(
    rewards: list[float], beta: float, scale: float, shift: float
) -> None:
    config = config_of(beta=beta, reward_scale=scale, loss="margin")
    best = [r / (beta * scale) + shift for r in rewards]
    assert max(map(abs, gradient(answers_of([best], [rewards]), config)[0])) < 1e-4
    least = LOSSES["margin"](answers_of([best], [rewards]), config).item()
    elsewhere = [b + 0.3 / beta * (-1) ** k for k, b in enumerate(best)]
    assert LOSSES["margin"](answers_of([elsewhere], [rewards]), config).item() >= least - 1e-5


def test_margin_pushes_harder_for_a_larger_difference_and_not_at_all_for_none() -> None:
    pushes = [-gradient(answers_of([[0.0, 0.0]], [[gap, 0.0]]), config_of(loss="margin"))[0][0] for gap in (0, 5, 50)]
    assert pushes[0] == 0
    assert 0 < pushes[1] < pushes[2] < 0.25
    # the sigmoid loss does not know by how much an answer won
    flat = [gradient(answers_of([[0.0, 0.0]], [[gap, 0.0]]), config_of())[0][0] for gap in (5.0, 50.0)]
    assert flat[0] == flat[1]


def test_rloo_is_reinforce_with_the_mean_of_the_others_at_the_sampling_policy() -> None:
    rewards = [30.0, 0.0, 15.0]
    found = gradient(answers_of([[0.0] * 3], [rewards]), config_of(objective="rloo"))[0]
    advantages = [(30 - 7.5) / 10, (0 - 22.5) / 10, 0.0]
    assert found == pytest.approx([-a / 3 for a in advantages])
    absent = answers_of([[0.0] * 3], [[30.0, 0.0, 999.0]], [[True, True, False]])
    assert gradient(absent, config_of(objective="rloo"))[0] == pytest.approx([-1.5, 1.5, 0.0])
    lonely = answers_of([[0.0] * 2], [[30.0, 0.0]], [[True, False]])
    assert gradient(lonely, config_of(objective="rloo"))[0] == [0.0, 0.0]


def test_rloo_rewards_no_change_beyond_the_clip() -> None:
    config = config_of(objective="rloo", clip=0.2)
    # the better answer is 1.5 times as likely already, the worse one half as likely
    beyond = answers_of([[math.log(1.5), math.log(0.5)]], [[20.0, 0.0]])
    assert gradient(beyond, config)[0] == [0.0, 0.0]
    # moved the wrong way, both are still pulled back
    wrong = gradient(answers_of([[math.log(0.5), math.log(1.5)]], [[20.0, 0.0]]), config)[0]
    assert wrong[0] < 0 < wrong[1]


def test_rloo_counts_divergence_from_the_reference_as_a_loss_of_reward() -> None:
    config = config_of(objective="rloo", kl_weight=0.5)
    # equal rewards: the answer that the sampling policy wrote more often than the reference falls
    drifted = gradient(answers_of([[0.0, 0.0]], [[5.0, 5.0]], reference=[[-2.0, 0.0]]), config)[0]
    assert drifted[0] > 0 > drifted[1]
    assert drifted[0] == pytest.approx(0.5 * 2.0 / 2)
