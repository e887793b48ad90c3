"""The configuration of a training run: one schema, without torch, read by the trainer, the tools and the operator."""

from __future__ import annotations

from trainers.config.load import apply_settings, dump_config, load_config, parse_config
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
    WarmStartConfig,
    WorldConfig,
)

__all__ = [
    "EvaluationConfig",
    "FeedbackConfig",
    "GuardConfig",
    "OptimisationConfig",
    "PenaltyConfig",
    "PreferenceConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "WarmStartConfig",
    "WorldConfig",
    "apply_settings",
    "dump_config",
    "load_config",
    "parse_config",
]
