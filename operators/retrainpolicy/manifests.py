"""The objects that a policy makes: a Job that looks at the log, the IRPOJob that trains, the service's new model."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from operators.irpojob.manifests import pod_around
from operators.resources.base import API_VERSION, ApiModel
from operators.retrainpolicy.observed import POLICY_LABEL, Desired

KIND = "RetrainPolicy"
MESSAGE = "/dev/termination-log"


def run_name(policy: str, number: int) -> str:
    """Name of a retraining's IRPOJob."""
    return f"{policy}-{number}"


def look_name(policy: str, number: int) -> str:
    """Name of a Job that looks at the log."""
    return f"{policy}-look-{number}"


def irpojob(policy: Desired, name: str, base: str, until: datetime) -> dict[str, Any]:
    """The retraining's IRPOJob: the template with what follows from the policy."""
    spec = _spec(policy.spec.template.spec)
    config = dict(spec["config"])
    config["base"] = f"{spec['storage']['url']}/models/{base}"
    config["epochs"] = 1
    feedback = {k: v for k, v in config.get("feedback", {}).items() if k not in ("source", "path", "judge")}
    moment = until.isoformat(timespec="seconds").replace("+00:00", "Z")
    config["feedback"] = {**feedback, "source": "shards", "path": policy.spec.source.shards, "until": moment}
    spec["config"], spec["gates"] = config, policy.spec.gates
    head = _head(policy, API_VERSION, "IRPOJob", name)
    head["metadata"]["labels"] = {**policy.spec.template.labels, **head["metadata"]["labels"]}
    head["metadata"]["annotations"] = dict(policy.spec.template.annotations)
    return {**head, "spec": spec}


def look(policy: Desired, name: str, serving: str, since: datetime | None) -> dict[str, Any]:
    """The Job that says whether a retraining is due, as JSON in its container's last words."""
    template = policy.spec.template.spec
    arguments = [
        "--log-format",
        "json",
        "due",
        "--shards",
        policy.spec.source.shards,
        "--registry",
        template.storage.url,
        "--serving",
        serving,
        "--triggers",
        json.dumps(policy.spec.triggers, sort_keys=True),
        "--outcome",
        MESSAGE,
        *(["--since", since.isoformat(timespec="seconds")] if since is not None else []),
    ]
    labels = {POLICY_LABEL: policy.name}
    spec = {
        "backoffLimit": 0,
        "activeDeadlineSeconds": 1800,
        "template": {
            "metadata": {"labels": labels, "annotations": dict(policy.spec.look.pods.pod_annotations)},
            "spec": pod_around(template, policy.spec.look.pods, arguments),
        },
    }
    return {**_head(policy, "batch/v1", "Job", name), "spec": spec}


def promotion(policy: Desired, model: str, digest: str) -> dict[str, Any]:
    """The service with the result as its model; nothing else of it is touched."""
    metadata = {"name": policy.spec.service.name, "namespace": policy.namespace}
    spec = {"model": {"name": model, "digest": digest}}
    return {"apiVersion": API_VERSION, "kind": "AuctionService", "metadata": metadata, "spec": spec}


def _spec(template: ApiModel) -> dict[str, Any]:
    return template.to_api()


def _head(policy: Desired, version: str, kind: str, name: str) -> dict[str, Any]:
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": policy.name, "uid": policy.uid, "controller": True}
    labels = {
        "app.kubernetes.io/managed-by": "llm-auction-operator",
        "app.kubernetes.io/part-of": "llm-auction",
        POLICY_LABEL: policy.name,
    }
    metadata = {"name": name, "namespace": policy.namespace, "labels": labels, "ownerReferences": [owner]}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}
