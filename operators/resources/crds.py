"""CustomResourceDefinitions of the models in KINDS. `python -m operators.resources.crds` writes them for the chart."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import BaseModel

from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus
from operators.resources.base import GROUP, VERSION, Manifest, rule
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus
from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus
from operators.resources.structural import inlined, structural

CHART = Path(__file__).parents[2] / "charts" / "llm-auction-crds" / "definitions"
HEADER = "# Generated from the models in operators/resources by `make crds`. Do not edit.\n"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; with priority 1 only of `kubectl get -o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A custom resource. `name_length`: longest name; `rules`: for the whole object; `scale`: JSON paths."""

    kind: str
    plural: str
    short: tuple[str, ...]
    description: str
    spec: type[BaseModel]
    status: type[BaseModel]
    columns: tuple[Column, ...]
    name_length: int
    rules: tuple[dict[str, str], ...] = ()
    scale: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the definition."""
        return f"{self.plural}.{GROUP}"


def _reason(condition: str) -> str:
    return f'.status.conditions[?(@.type=="{condition}")].reason'


KINDS: tuple[Kind, ...] = (
    Kind(
        kind="IRPOJob",
        plural="irpojobs",
        short=("irpo",),
        description="One run of iterative reward-preference optimisation: epochs of feedback, reward update, rollouts, "
        "pairs, preference optimisation and evaluation, each a Kubernetes Job; then its best model is registered.",
        spec=IRPOJobSpec,
        status=IRPOJobStatus,
        columns=(
            Column("Phase", ".status.phase"),
            Column("Epoch", ".status.epoch", "integer"),
            Column("Step", ".status.step"),
            Column("Progress", ".status.progress", description="Steps done, of all steps"),
            Column("Restarts", ".status.restarts", "integer"),
            Column("Model", ".status.modelVersion"),
            Column("Failed", _reason("Failed"), description="Reason of the failure"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Doing", _reason("Progressing"), priority=1),
            Column("Last failure", ".status.lastFailure.reason", priority=1),
            Column("Queue", ".spec.queueName", priority=1),
        ),
        name_length=40,
        rules=(rule("self.metadata.name != 'models'", "the name models is reserved for the model registry"),),
    ),
    Kind(
        kind="AuctionService",
        plural="auctionservices",
        short=("auction",),
        description="Routers that answer with sponsored links, policy servers for each version of the policy, and the "
        "rollout of a new version: step by step, guarded, with automatic rollback.",
        spec=AuctionServiceSpec,
        status=AuctionServiceStatus,
        columns=(
            Column("Phase", ".status.phase"),
            Column("Stable", ".status.stable.name"),
            Column("Candidate", ".status.candidate.name"),
            Column("Share", ".status.weight", "integer", description="The candidate's share in per cent"),
            Column("Routers", ".status.routers"),
            Column("Doing", _reason("Progressing"), description="What a new version waits for, or its result"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Rejected", ".status.rejected.name", priority=1),
            Column("Why", ".status.rejected.reason", priority=1),
        ),
        name_length=40,
        scale={
            "specReplicasPath": ".spec.router.replicas",
            "statusReplicasPath": ".status.routerReplicas",
            "labelSelectorPath": ".status.routerSelector",
        },
    ),
    Kind(
        kind="RetrainPolicy",
        plural="retrainpolicies",
        short=("retrain",),
        description="Retrains the stable version of an AuctionService from the log of what it served: when, with which "
        "IRPOJob, and whether a result that passes the gates is promoted.",
        spec=RetrainPolicySpec,
        status=RetrainPolicyStatus,
        columns=(
            Column("Phase", ".status.phase"),
            Column("Ready", _reason("Ready"), description="Watching, or what prevents it"),
            Column("Service", ".spec.service.name"),
            Column("New", ".status.seen.new", "integer", description="Judged interactions since the last retraining"),
            Column("Job", ".status.active"),
            Column("Last", ".status.lastResult.outcome"),
            Column("Model", ".status.lastResult.model"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Waiting for", ".status.waitingFor", priority=1),
        ),
        name_length=30,
    ),
)


def definition(kind: Kind) -> Manifest:
    """Render the CustomResourceDefinition of a kind."""
    spec = structural(inlined(kind.spec))
    status = structural(inlined(kind.status), defaults=False)
    status.pop("required", None)
    conditions = status["properties"].get("conditions")
    if conditions is not None:
        conditions.update({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
    longest = kind.name_length
    naming = rule(
        f"self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= {longest}",
        f"the name must begin with a letter and have at most {longest} lower-case letters, digits and -",
    )
    schema = {
        "type": "object",
        "description": kind.description,
        "required": ["spec"],
        "x-kubernetes-validations": [naming, *kind.rules],
        "properties": {
            "apiVersion": {"type": "string", "description": "Group and version of this kind."},
            "kind": {"type": "string", "description": f"Always {kind.kind}."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    subresources: Manifest = {"status": {}}
    if kind.scale:
        subresources["scale"] = dict(kind.scale)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.name, "labels": {"app.kubernetes.io/part-of": "llm-auction"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": list(kind.short),
                "categories": ["llm-auction"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [_column(column) for column in kind.columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(column: Column) -> Manifest:
    result: Manifest = {"name": column.name, "jsonPath": column.path, "type": column.type}
    if column.priority:
        result["priority"] = column.priority
    if column.description:
        result["description"] = column.description
    return result


def rendered() -> dict[str, str]:
    """Render every definition as YAML, by file name."""
    return {
        f"{kind.plural}.yaml": HEADER + yaml.safe_dump(definition(kind), sort_keys=False, width=110, allow_unicode=True)
        for kind in KINDS
    }


def main(folder: Path) -> None:
    """Write the definitions into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CHART)
