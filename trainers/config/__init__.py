"""The configuration of a training run: one schema, without torch, read by the trainer, the tools and the operator."""

from __future__ import annotations

from trainers.config.engine import EngineConfig
from trainers.config.gates import GateSettings, OffPolicySettings
from trainers.config.load import (
    apply_settings,
    dump_config,
    load_config,
    load_gates,
    load_retraining,
    parse_config,
    parse_retraining,
)
from trainers.config.retrain import DriftConfig, LogConfig, RetrainConfig, TriggerConfig
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
    "EngineConfig",
    "DriftConfig",
    "EvaluationConfig",
    "FeedbackConfig",
    "GateSettings",
    "GuardConfig",
    "LogConfig",
    "OffPolicySettings",
    "OptimisationConfig",
    "PenaltyConfig",
    "PreferenceConfig",
    "RetrainConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "TriggerConfig",
    "WarmStartConfig",
    "WorldConfig",
    "apply_settings",
    "dump_config",
    "load_config",
    "load_gates",
    "load_retraining",
    "parse_config",
    "parse_retraining",
]
