"""Retraining from logs: when it is due, one epoch from the serving model, the gates, and the entry in the registry."""

from __future__ import annotations

from trainers.retraining.attempts import Attempt
from trainers.retraining.observation import observe
from trainers.retraining.run import RetrainOutcome, retrain
from trainers.retraining.triggers import DueDecision, Observed, is_due

__all__ = ["Attempt", "DueDecision", "Observed", "RetrainOutcome", "is_due", "observe", "retrain"]
