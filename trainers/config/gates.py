"""Settings of the off-policy estimate and thresholds of the gates, with units and defaults. Read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.config.fields import Count, Positive, Rate, Settings, Share
from trainers.config.schema import WorldConfig

Confidence = Annotated[float, Field(gt=0, lt=1)]


class OffPolicySettings(Settings):
    """How the value of a policy that has not served is estimated from the log of one that has, and when not.

    An estimate that the log cannot support is refused (`trainers.gates.offpolicy`).
    """

    method: Literal["ips", "snips", "dr"] = Field(
        "dr", description="estimator; dr needs a pCTR model that was not fitted to this log"
    )
    action: Literal["answer", "ads"] = Field(
        "answer", description="unit of the weights: whole answers (exact), or ad decisions given the words"
    )
    clip: Rate | None = Field(None, description="upper limit on the weights: less variance, some bias; none: no limit")
    interval: Literal["percentile", "studentised"] = Field("studentised", description="kind of bootstrap interval")
    level: Confidence = Field(0.95, description="confidence level of the intervals")
    draws: Positive = Field(2000, description="bootstrap resamples of the contexts")
    contexts: Positive = Field(2000, description="newest logged answers of the serving model that are read")
    samples: Positive = Field(1, description="fresh answers of the target per logged context, for the dr estimate")
    min_effective_sample: Rate = Field(
        100.0, description="fewest effective contexts (Kish); with fewer the estimate is refused"
    )
    max_weight_error: Rate = Field(
        0.5, description="distance of the mean weight from its expectation, one, above which the estimate is refused"
    )
    max_unsupported: Share = Field(
        0.05, description="share of the target's answers that the logging model could not write"
    )
    max_disagreement: Share = Field(
        0.01, description="share of logged log-probabilities that the logging model may fail to reproduce"
    )
    tolerance: Rate = Field(0.05, description="nats by which a reproduced log-probability may differ")

    @model_validator(mode="after")
    def _weighs_what_it_estimates(self) -> OffPolicySettings:
        # Measured by `benchmarks.trainers.offpolicy`: such an interval held the true experience in none of 50 trials.
        if self.action == "ads" and self.method != "dr":
            raise ValueError(
                "offpolicy.action ads needs offpolicy.method dr: how many ads an answer has is part of its words, "
                "which these weights leave as the log has them"
            )
        return self


class GateSettings(Settings):
    """What must hold before a model serves.

    Margins of revenue are shares of the serving model's figure; where a comparison has an interval, its worse end must
    stay within the margin.
    """

    offpolicy: OffPolicySettings = OffPolicySettings()
    simulator: WorldConfig | None = Field(
        None, description="simulated world to compare the models in; none: the gate is not configured"
    )
    min_auc: Share = Field(0.55, description="AUC that the click predictor must exceed on clicks it was not fitted to")
    auc_margin: Share = Field(0.03, description="loss of AUC against the serving model's predictor that is allowed")
    max_calibration_error: Share = Field(
        0.25, description="share by which the sum of its forecasts may miss the clicks, beyond chance"
    )
    revenue_margin: Share = Field(0.05, description="share of the serving model's revenue per query")
    experience_margin: float = Field(2.0, ge=0, description="bid points of penalty per query")
    simulator_margin: Share = Field(0.02, description="share of the serving model's revenue per query in the simulator")
    min_rise: float = Field(0.0, description="clicks per query that the highest bid must gain over the lowest")
    max_fall: float = Field(0.05, ge=0, description="clicks per query that one step of a rising bid may lose")
    max_invalid: float = Field(0.0, ge=0, description="invalid insertions per answer")
    quality_margin: float = Field(0.02, ge=0, description="loss of answer quality (0..1) that is allowed")
    max_latency_ratio: Rate = Field(
        1.25, description="seconds per answer of the candidate over those of the serving model"
    )
    min_queries: Count = Field(100, description="fewest queries behind the evaluation figures")
    queries: Positive = Field(300, description="logged contexts that both models answer")
    swept: Positive = Field(60, description="logged contexts in which the bid of one ad is swept")
