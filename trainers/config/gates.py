"""Settings of the off-policy estimate and thresholds of the gates, with units and defaults. Read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainers.config.schema import Count, Positive, Rate, Settings, Share, WorldConfig

Confidence = Annotated[float, Field(gt=0, lt=1)]


class OffPolicySettings(Settings):
    """How the value of a policy that has not served is estimated from the log of one that has, and when the log is
    too thin to say anything (`trainers.gates.offpolicy`)."""

    method: Literal["ips", "snips", "dr"] = Field("dr", description="dr needs a pCTR model that this log did not fit")
    action: Literal["answer", "ads"] = Field(
        "answer", description="what is weighted: whole answers (exact), or ad decisions with the words taken as given"
    )
    clip: Rate | None = Field(None, description="weights above this count as this: less variance, some bias")
    interval: Literal["percentile", "studentised"] = Field("studentised", description="kind of bootstrap interval")
    level: Confidence = Field(0.95, description="of the intervals")
    draws: Positive = Field(2000, description="bootstrap resamples of the contexts")
    contexts: Positive = Field(2000, description="logged answers of the serving model that are read, the newest")
    samples: Positive = Field(1, description="fresh answers of the target per logged context, for the dr estimate")
    min_effective_sample: Rate = Field(100.0, description="contexts (Kish); fewer is a refusal")
    max_weight_error: Rate = Field(
        0.5, description="how far the mean weight, of expectation one, may lie from one before the estimate is refused"
    )
    max_unsupported: Share = Field(0.05, description="share of the target's answers that the log could not hold")
    max_disagreement: Share = Field(
        0.01, description="share of logged log-probabilities that the logging model does not reproduce"
    )
    tolerance: Rate = Field(0.05, description="nats by which a reproduced log-probability may differ")

    @model_validator(mode="after")
    def _weighs_what_it_estimates(self) -> OffPolicySettings:
        # measured by `benchmarks.trainers.offpolicy`: such an interval held the true experience in none of 50 trials
        if self.action == "ads" and self.method != "dr":
            raise ValueError(
                "offpolicy.action ads needs offpolicy.method dr: how many ads an answer has is part of its words, "
                "which these weights leave as the log has them"
            )
        return self


class GateSettings(Settings):
    """What must hold before a model serves. Margins of revenue are shares of the serving model's own figure; where a
    comparison has an interval, its worse end must stay within the margin."""

    offpolicy: OffPolicySettings = OffPolicySettings()
    simulator: WorldConfig | None = Field(
        None, description="simulated world to compare the models on; none: that gate says that it is not configured"
    )
    min_auc: Share = Field(
        0.55, description="area under the ROC curve that the click predictor must beat on clicks it was not fitted to"
    )
    auc_margin: Share = Field(0.03, description="by which it may rank those clicks worse than the serving model's did")
    max_calibration_error: Share = Field(
        0.25, description="by how much the sum of its forecasts may miss the clicks, as a share, beyond chance"
    )
    revenue_margin: Share = Field(0.05, description="of the serving model's revenue per query")
    experience_margin: float = Field(2.0, ge=0, description="bid points of penalty per query")
    simulator_margin: Share = Field(0.02, description="of the serving model's revenue per query in the simulator")
    min_rise: float = Field(0.0, description="clicks per query by which the highest bid must beat the lowest")
    max_fall: float = Field(0.05, ge=0, description="clicks per query lost over the worst step of a rising bid")
    max_invalid: float = Field(0.0, ge=0, description="invalid insertions per answer")
    quality_margin: float = Field(0.02, ge=0, description="of answer quality, which is 0..1")
    max_latency_ratio: Rate = Field(1.25, description="seconds per answer, candidate to serving model")
    min_queries: Count = Field(100, description="queries behind the figures of evaluation")
    queries: Positive = Field(300, description="logged contexts that both models answer, to compare the answers")
    swept: Positive = Field(60, description="logged contexts in each of which one ad's bid is swept")
