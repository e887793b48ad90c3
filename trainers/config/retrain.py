"""When a model is retrained from its own log, with which settings, and what must hold before the result serves.

One schema for `llm-auction retrain` and for the operator's RetrainPolicy; read without torch.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from trainers.config.fields import Positive, Rate, Settings, Share
from trainers.config.gates import GateSettings
from trainers.config.schema import (
    EvaluationConfig,
    FeedbackConfig,
    GuardConfig,
    OptimisationConfig,
    PenaltyConfig,
    PreferenceConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
)


class DriftConfig(Settings):
    """When the newest traffic counts as different from what the serving model was trained on."""

    window: Positive = Field(1000, description="number of newest interactions that are compared")
    calibration: Rate | None = Field(
        0.15, description="share by which clicks miss the predictor's forecasts, beyond chance; none: not checked"
    )
    population: Rate | None = Field(
        0.05,
        description="squared distance of the queries' mean embeddings over their variance; none: not checked",
    )


class TriggerConfig(Settings):
    """When a retraining is due. Hours count from the last retraining, however it ended."""

    new_interactions: Positive = Field(5000, description="number of new usable judged interactions that makes one due")
    at_least: Positive = Field(1000, description="fewest new interactions for a retraining, whichever trigger fires")
    max_age_hours: Rate | None = Field(
        168.0, description="age of the last retraining that makes one due; none: never by age"
    )
    cooldown_hours: float = Field(1.0, ge=0, description="time after the last retraining without another")
    drift: DriftConfig = DriftConfig()


class LogConfig(Settings):
    """Which logged answers a retraining reads."""

    answers: Positive = Field(20_000, description="newest answers that are read, at most")
    max_age_hours: Rate | None = Field(None, description="age above which answers are left out; none: no limit")
    held_out: Share = Field(0.2, gt=0, lt=1, description="share of the auctions held out of fitting, for the gates")
    window_s: Rate = Field(1800.0, description="seconds after an answer within which its clicks count")
    delay_correction: bool = Field(True, description="account for clicks that have not come yet")
    min_seen: Rate = Field(0.1, lt=1, description="leave out answers too young to show this share of their clicks")


class RetrainConfig(Settings):
    """One retraining: an epoch of IRPO from the serving model, on logged answers and clicks."""

    name: str = Field("retrain", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="prefix of the runs' names")
    seed: int = Field(0, description="seed of every random step; each retraining adds its number")
    sampling_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="precision of the weights while sampling; auto: bfloat16 on GPUs, float32 on processors"
    )
    triggers: TriggerConfig = TriggerConfig()
    log: LogConfig = LogConfig()
    reward: RewardConfig = RewardConfig()
    rollout: RolloutConfig = RolloutConfig(bids="fresh")
    penalty: PenaltyConfig = PenaltyConfig()
    preference: PreferenceConfig = PreferenceConfig()
    optimisation: OptimisationConfig = OptimisationConfig()
    guards: GuardConfig = GuardConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gates: GateSettings = GateSettings()

    def run(self, base: str, lake: str, seed: int, since: datetime | None, until: datetime | None) -> RunConfig:
        """Return the configuration of one run.

        `base` is the serving model's folder; the log is that of auctions from `since` to before `until` (aware
        datetimes or None).
        """
        log = self.log
        feedback = FeedbackConfig(
            source="lake",
            path=lake,
            window_s=log.window_s,
            contexts=log.answers,
            held_out=log.held_out,
            delay_correction=log.delay_correction,
            min_seen=log.min_seen,
            since=since,
            until=until,
        )
        return RunConfig(
            name=self.name,
            base=base,
            seed=seed,
            epochs=1,
            sampling_precision=self.sampling_precision,
            feedback=feedback,
            reward=self.reward,
            rollout=self.rollout,
            penalty=self.penalty,
            preference=self.preference,
            optimisation=self.optimisation,
            guards=self.guards,
            evaluation=self.evaluation,
        )
