"""The trainer's configuration inside a resource: its schema with rules for the API server, less what the resource says
itself (the run's name and its processes)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from operators.resources.base import rule
from operators.resources.structural import inlined
from trainers.config import GateSettings, RunConfig

ELSEWHERE = {"name": "metadata.name", "optimisation.processes": "steps.optimisation.pods and processesPerPod"}
"""Fields of the trainer's that the resource has under another name."""

RULES: dict[str, list[dict[str, str]]] = {
    "": [
        rule(
            "self.feedback.source != 'shards' || self.epochs == 1",
            "epochs must be 1 with feedback.source shards: only a policy that serves has a log",
        ),
        rule(
            "self.feedback.source != 'shards' || self.reward.source != 'oracle'",
            "reward.source oracle knows simulated users only, not those of feedback.source shards",
        ),
        rule(
            "self.feedback.source != 'shards' || !has(self.warm_start)",
            "warm_start needs a simulated world: register a warmed model and start from it",
        ),
    ],
    "world": [
        rule(
            "has(self.path) != (self.kind == 'builtin')",
            "path belongs to the kinds webis and tables, and to them only",
        ),
    ],
    "feedback": [
        rule("has(self.path) == (self.source == 'shards')", "path belongs to the source shards, and to it only"),
        rule(
            "self.source != 'shards' || !has(self.judge)",
            "judge belongs to the source simulator: shards have been judged already",
        ),
        rule("!has(self.since) || !has(self.until) || self.since < self.until", "since must be before until"),
    ],
    "optimisation": [
        rule("self.sft_weight == 0.0 || self.shared_prefix", "sft_weight needs shared_prefix"),
    ],
}
"""The checks between fields that `trainers.config` makes in Python, in the API server's language, by section."""


GATE_RULES: dict[str, list[dict[str, str]]] = {
    "simulator": RULES["world"],
    "offpolicy": [
        rule(
            "self.action == 'answer' || self.method == 'dr'",
            "action ads needs method dr: how many ads an answer has is part of its words, which are not weighted",
        ),
    ],
}
"""The same for the gates."""


def training_schema() -> dict[str, Any]:
    """JSON schema of the configuration in a resource, without references."""
    schema = inlined(RunConfig)
    del schema["properties"]["name"]
    schema["required"] = [name for name in schema.get("required", []) if name != "name"]
    if not schema["required"]:
        del schema["required"]
    del schema["properties"]["optimisation"]["properties"]["processes"]
    return _ruled(schema, RULES)


def template_schema() -> dict[str, Any]:
    """The same where base model, feedback and epochs follow from elsewhere: they have no defaults, which would tell of
    a base model that is not taken. What is said of them is the resource's to refuse."""
    schema = training_schema()
    del schema["x-kubernetes-validations"]
    feedback = schema["properties"]["feedback"]
    del feedback["x-kubernetes-validations"]
    for part, name in ((schema, "base"), (schema, "epochs"), (feedback, "source")):
        del part["properties"][name]["default"]
    return schema


def _ruled(schema: dict[str, Any], by_section: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    for section, rules in by_section.items():
        part = schema["properties"][section] if section else schema
        part["x-kubernetes-validations"] = rules
    return schema


def check_gates(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses what the gates' own schema refuses. Raises ValueError."""
    GateSettings.model_validate(value)
    return value


GatesField = Annotated[
    dict[str, Any], AfterValidator(check_gates), WithJsonSchema(_ruled(inlined(GateSettings), GATE_RULES))
]
"""Thresholds of the gates in a resource, in the trainer's spelling."""


def check_training(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses, as the API server does, what the resource says elsewhere. Raises ValueError."""
    for name, place in ELSEWHERE.items():
        section, _, field = name.rpartition(".")
        if field in (value.get(section) or {} if section else value):
            raise ValueError(f"config.{name} is not set here: it follows from {place}")
    return value
