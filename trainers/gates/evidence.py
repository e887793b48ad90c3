"""Values, weights and forecasts for the off-policy estimators, from logged answers and two models.

The action of an answer is one of two. "answer": the whole answer. Its weight is the ratio of the answers'
probabilities, which is exact, and its variance grows with every word on which the models differ. "ads": whether a
marker opens at each token and which ad it names, given the words. These weights stay near one, but they correct towards
a policy with the target's ad decisions and the logging model's words. Estimates of values that depend on the words
(nativeness of an ad, whether a sentence that leads to one begins) are then biased; the doubly robust one only as far as
the forecasts' error differs between the models' words, because its direct part reads the target's own answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inference.scoring import Sampler, compare
from mechanism.errors import InputError
from mechanism.objective import Penalty, s_resp, value
from mechanism.statistics import Floats
from mechanism.types import AdId, Answer, Context, Micros
from trainers.artifacts.sampled import Sampled
from trainers.config.gates import OffPolicySettings
from trainers.gates.offpolicy import Logged
from trainers.reward.model import ClickPredictor

Action = Literal["answer", "ads"]
Shown = Sequence[tuple[Context, Answer]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """N logged answers under two models, in bid points per query.

    `revenue_N`: bids of the clicked ads; `experience_N`: the reward without its revenue, -lambda s_resp (Eq. 8), which
    needs no user. `forecast_N`, `direct_N`, `direct_experience_N`: the pCTR model's revenue of
    the logged answer, and the mean revenue and experience of the target's own answers to that context. `weights` and
    `unsupported` by action; `disagreement` as in Logged.
    """

    contexts: tuple[str, ...]
    revenue_N: Floats
    experience_N: Floats
    forecast_N: Floats
    direct_N: Floats
    direct_experience_N: Floats
    weights: dict[Action, Floats]
    unsupported: dict[Action, Floats]
    disagreement: float

    def revenue(self, action: Action) -> Logged:
        """Return the estimators' input for revenue per query."""
        return Logged(
            self.contexts,
            self.revenue_N,
            self.weights[action],
            self.unsupported[action],
            self.forecast_N,
            self.direct_N,
            self.disagreement,
        )

    def experience(self, action: Action) -> Logged:
        """Return the estimators' input for experience per query.

        Its forecast is exact, so that the doubly robust estimate is the mean over the target's own answers.
        """
        return Logged(
            self.contexts,
            self.experience_N,
            self.weights[action],
            self.unsupported[action],
            self.experience_N,
            self.direct_experience_N,
            self.disagreement,
        )


def gather(
    log: Sequence[Sampled],
    logging: Sampler,
    target: Sampler,
    predictor: ClickPredictor,
    penalty: Penalty,
    lam: float,
    settings: OffPolicySettings,
    seed: int,
    bids: Mapping[str, Mapping[AdId, Micros]] | None = None,
    seen: Mapping[str, float] | None = None,
) -> Evidence:
    """Score a log of shown answers under the model that wrote it and under the target; sample the target's own answers.

    The target writes `settings.samples` answers to every context. `predictor` should not have been fitted to this log
    (see Logged). By context id, `bids` are those that a click is charged at, where the prompt showed others (the ad
    load), and `seen` the share of an answer's clicks that the log can hold by now: clicks are divided by it, which
    keeps the expectation and makes young answers noisy. Other errors as `inference.scoring.compare`.

    Raises:
        InputError: if the log has no clicks or no answers.
    """
    rows = [(item.context, g) for item in log for g in item.generations]
    clicks = [clicked for item in log for clicked in item.clicks or ()]
    if not rows or len(rows) != len(clicks):
        raise InputError("log", f"{len(rows)} answers, {len(clicks)} with clicks", "give answers that were shown")
    compared = compare(logging, target, [c for c, _ in rows], [g for _, g in rows])
    recorded = np.array([g.logprob for _, g in rows])
    reproduced, own_ads = np.array([(c.logged.logprob, c.logged.ads_logprob) for c in compared]).T
    whole, ads = np.array([(c.target.logprob, c.target.ads_logprob) for c in compared]).T
    contexts = [item.context for item in log]
    fresh = target.policy.generate(contexts, settings.samples, seed, target.settings)
    drawn = [(c, g.answer) for c, own in zip(contexts, fresh, strict=True) for g in own]
    repeats = [len(item.generations) for item in log]

    def direct(values: Sequence[float]) -> Floats:
        return np.repeat(np.reshape(values, (len(contexts), settings.samples)).mean(axis=1), repeats)

    def charged(context: Context) -> Mapping[AdId, Micros]:
        return context.bids() if bids is None else bids[context.id]

    def revenue(shown: Shown, clicks: Sequence[Mapping[AdId, float]]) -> list[float]:
        return [value(a, charged(c), p) for (c, a), p in zip(shown, clicks, strict=True)]

    shown = [(c, g.answer) for c, g in rows]
    realised = [{ad: float(hit) for ad, hit in clicked.items()} for clicked in clicks]
    return Evidence(
        contexts=tuple(c.id for c, _ in rows),
        revenue_N=np.array(revenue(shown, realised)) / np.array([seen[c.id] if seen else 1.0 for c, _ in shown]),
        experience_N=np.array([-lam * s_resp(a, penalty) for _, a in shown]),
        forecast_N=np.array(revenue(shown, predictor.probabilities(shown))),
        direct_N=direct(revenue(drawn, predictor.probabilities(drawn))),
        direct_experience_N=direct([-lam * s_resp(a, penalty) for _, a in drawn]),
        weights={
            "answer": np.exp(whole - recorded),
            # An answer that rounding puts out of the logging model's own support counts as a disagreement.
            "ads": np.exp(ads - np.where(np.isfinite(own_ads), own_ads, np.inf)),
        },
        unsupported={
            "answer": np.array([c.unsupported for c in compared]),
            "ads": np.array([c.ads_unsupported for c in compared]),
        },
        disagreement=float(np.mean(~(np.abs(reproduced - recorded) <= settings.tolerance))),
    )


def join(parts: Sequence[Evidence]) -> Evidence:
    """Join the evidence of several logs of one pair of models, such as answers under different limits."""
    sizes = [len(part.contexts) for part in parts]

    def column(name: str) -> Floats:
        return np.concatenate([getattr(part, name) for part in parts])

    return Evidence(
        tuple(context for part in parts for context in part.contexts),
        column("revenue_N"),
        column("experience_N"),
        column("forecast_N"),
        column("direct_N"),
        column("direct_experience_N"),
        weights={action: np.concatenate([part.weights[action] for part in parts]) for action in parts[0].weights},
        unsupported={a: np.concatenate([part.unsupported[a] for part in parts]) for a in parts[0].unsupported},
        disagreement=float(np.average([part.disagreement for part in parts], weights=sizes)),
    )
