"""The trainer's configuration inside a resource: its schema, with its cross-field checks as CEL rules.

The run's name and its number of processes follow from other fields of the resource and are left out.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from operators.resources.base import Manifest, rule
from operators.resources.structural import Schema, inlined
from trainers.config import GateSettings, RunConfig

ELSEWHERE = {"name": "metadata.name", "optimisation.processes": "steps.optimisation.pods and processesPerPod"}
"""Fields of the trainer's configuration that follow from another field of the resource."""

RULES: dict[str, list[dict[str, str]]] = {
    "": [
        rule(
            "self.feedback.source != 'lake' || self.epochs == 1",
            "epochs must be 1 with feedback.source lake: only a policy that serves has a log",
        ),
        rule(
            "self.feedback.source != 'lake' || self.reward.source != 'oracle'",
            "reward.source oracle needs simulated users, which feedback.source lake does not have",
        ),
        rule(
            "self.feedback.source != 'lake' || !has(self.warm_start)",
            "warm_start needs a simulated world: register a warm-started model and start from it",
        ),
        rule(
            "self.optimisation.objective != 'rloo'"
            " || self.preference.edited + self.preference.counterfactual_bids == 0",
            "optimisation.objective rloo needs preference.edited and preference.counterfactual_bids of 0",
        ),
        rule(
            "!has(self.warm_start) || self.warm_start.source != 'native' || self.world.kind in ['naiad', 'native-ads']",
            "warm_start.source native needs a world of kind naiad or native-ads, which hold answers",
        ),
        rule(
            "self.optimisation.lora_rank == 0 || !has(self.warm_start)",
            "optimisation.lora_rank needs a run without warm_start",
        ),
    ],
    "world": [
        rule(
            "has(self.path) != (self.kind in ['builtin', 'everyday'])",
            "path belongs to the kinds of imported data, and to no other",
        ),
    ],
    "feedback": [
        rule("has(self.path) == (self.source == 'lake')", "path belongs to the source lake, and to no other"),
        rule(
            "self.source != 'lake' || !has(self.judge)",
            "judge belongs to the source simulator: a lake is judged already",
        ),
        rule("!has(self.since) || !has(self.until) || self.since < self.until", "since must be before until"),
    ],
    "preference": [
        rule(
            "(self.edited == 0) == (self.swaps + self.removals == 0)",
            "edited needs swaps or removals above 0, and they need it",
        ),
    ],
    "optimisation": [
        rule("self.sft_weight == 0.0 || self.shared_prefix", "sft_weight needs shared_prefix"),
        rule(
            "self.sft_weight == 0.0 || self.objective == 'preference'", "sft_weight belongs to the objective preference"
        ),
        rule(
            "self.shared_prefix || (self.objective == 'preference' && self.loss == 'sigmoid')",
            "shared_prefix false needs the objective preference with the loss sigmoid",
        ),
    ],
}
"""The checks between fields that `trainers.config` makes in Python, as CEL rules by section."""

GATE_RULES: dict[str, list[dict[str, str]]] = {
    "simulator": RULES["world"],
    "offpolicy": [
        rule(
            "self.action == 'answer' || self.method == 'dr'",
            "action ads needs method dr: how many ads an answer has is part of its words, which are not weighted",
        ),
    ],
}
"""The same for the gates' settings."""


def training_schema() -> Schema:
    """Return the JSON schema of the configuration in a resource, without references."""
    schema = inlined(RunConfig)
    del schema["properties"]["name"]
    schema["required"] = [name for name in schema.get("required", []) if name != "name"]
    if not schema["required"]:
        del schema["required"]
    del schema["properties"]["optimisation"]["properties"]["processes"]
    return _with_rules(schema, RULES)


def template_schema() -> Schema:
    """Return the schema for a template, in which the policy determines base model, feedback source and epochs.

    These fields have no defaults here, since a default would not be used. The resource's rules refuse values for them.
    """
    schema = training_schema()
    del schema["x-kubernetes-validations"]
    feedback = schema["properties"]["feedback"]
    del feedback["x-kubernetes-validations"]
    for part, name in ((schema, "base"), (schema, "epochs"), (feedback, "source")):
        del part["properties"][name]["default"]
    return schema


def _with_rules(schema: Schema, by_section: dict[str, list[dict[str, str]]]) -> Schema:
    for section, rules in by_section.items():
        part = schema["properties"][section] if section else schema
        part["x-kubernetes-validations"] = rules
    return schema


def check_gates(value: Manifest) -> Manifest:
    """Validate gates by the trainer's schema, which raises a ValueError for what it refuses."""
    GateSettings.model_validate(value)
    return value


GatesField = Annotated[
    Manifest, AfterValidator(check_gates), WithJsonSchema(_with_rules(inlined(GateSettings), GATE_RULES))
]
"""Thresholds of the gates in a resource, with the trainer's field names."""


def check_training(value: Manifest) -> Manifest:
    """Refuse fields that follow from other fields of the resource, as the API server does.

    Raises:
        ValueError: if such a field is set.
    """
    for name, place in ELSEWHERE.items():
        section, _, field = name.rpartition(".")
        if field in (value.get(section) or {} if section else value):
            raise ValueError(f"config.{name} cannot be set here: it follows from {place}")
    return value
