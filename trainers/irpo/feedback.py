"""Who clicks in the feedback phase: the simulator's users, or a judge behind an OpenAI-compatible endpoint.

Either way the result is D_on, clicks by shown ad. Grades and reasons of the judge are not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mechanism.types import AdId, Answer, Context
from simulator.clicks import ClickModel
from trainers.config.schema import JudgeConfig

Shown = Sequence[tuple[Context, Answer]]
Users = Callable[[Shown], list[Mapping[AdId, bool]]]
"""Clicks on the ads of every shown answer, in order."""


def simulated(truth: ClickModel, seed: int) -> Users:
    """Users who click with the simulator's true probabilities."""

    def clicks(shown: Shown) -> list[Mapping[AdId, bool]]:
        rng = np.random.default_rng(seed)
        return [truth.click(truth.probabilities(context, answer), rng) for context, answer in shown]

    return clicks


def judged(config: JudgeConfig, seed: int, say: Callable[[str], None]) -> Users:
    """A user model at `config.base_url` reads every answer that shows an ad. Replies are kept in `config.cache`, so
    that an interrupted phase does not pay twice.

    Calls raise JudgeError where the endpoint fails or the budget is spent, InputError for a key that is not set.
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

    def clicks(shown: Shown) -> list[Mapping[AdId, bool]]:
        with_ads = [(context, answer) for context, answer in shown if answer.shown()]
        with ChatClient(endpoint, meter) as client:
            replies = iter(UserModel(client, ReplyCache(config.cache)).click_feedbacks(with_ads, seed))
        usage = meter.usage
        say(f"judge: {usage.calls} calls, {usage.cached} from the cache, {usage.spent} micros")
        return [next(replies).clicked() if answer.shown() else {} for _, answer in shown]

    return clicks
