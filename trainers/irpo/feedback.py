"""Clicks of the feedback phase (D_on): from the simulator's users, or from a judge at an OpenAI-compatible endpoint.

The judge's grades and reasons are not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mechanism.types import AdId, Answer, Context
from simulator.clicks import ClickModel
from trainers.config.schema import JudgeConfig

Shown = Sequence[tuple[Context, Answer]]
Click = Callable[[Shown], list[Mapping[AdId, bool]]]
"""Shown answers -> for each of them, in order, whether each of its ads is clicked."""


def simulated_clicks(truth: ClickModel, seed: int) -> Click:
    """Return users who click with the simulator's true probabilities."""

    def click(shown: Shown) -> list[Mapping[AdId, bool]]:
        rng = np.random.default_rng(seed)
        return [truth.click(truth.probabilities(context, answer), rng) for context, answer in shown]

    return click


def judged_clicks(config: JudgeConfig, seed: int, report: Callable[[str], None]) -> Click:
    """Return a user model at `config.base_url` that reads every answer with an ad.

    Its replies are cached in `config.cache`, so that an interrupted phase does not pay twice. A call of the result
    raises JudgeError where the endpoint fails or the budget is spent, InputError for a key that is not set.
    """
    from judge.cache import ReplyCache
    from judge.client import ChatClient, EndpointSettings
    from judge.cost import CostMeter, Prices
    from judge.user_model import UserModel

    endpoint = EndpointSettings(
        config.base_url,
        config.model,
        config.api_key_env,
        config.temperature,
        response_format=config.response_format,
        timeout=config.timeout,
        concurrency=config.concurrency,
    )
    meter = CostMeter(Prices(config.micros_per_million_read, config.micros_per_million_written), config.budget_micros)

    def click(shown: Shown) -> list[Mapping[AdId, bool]]:
        with_ads = [(context, answer) for context, answer in shown if answer.shown()]
        with ChatClient(endpoint, meter) as client:
            replies = iter(UserModel(client, ReplyCache(config.cache)).click_feedbacks(with_ads, seed))
        usage = meter.usage
        report(f"judge: {usage.calls} calls, {usage.cached} from the cache, {usage.spent} micros")
        return [next(replies).clicked() if answer.shown() else {} for _, answer in shown]

    return click
