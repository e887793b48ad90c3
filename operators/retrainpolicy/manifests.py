"""The objects that a RetrainPolicy writes: look Jobs, the IRPOJob that trains, and its service's new model."""

from __future__ import annotations

import json
from datetime import datetime

from operators.irpojob.manifests import TERMINATION_LOG, pod_around
from operators.objects import owned_object
from operators.resources.base import API_VERSION, Manifest, timestamp
from operators.retrainpolicy.observe import POLICY_LABEL, Desired

KIND = "RetrainPolicy"
LOOK_DEADLINE_S = 1800


def run_name(policy: str, number: int) -> str:
    """Return the name of a retraining's IRPOJob."""
    return f"{policy}-{number}"


def look_name(policy: str, number: int) -> str:
    """Return the name of a look Job."""
    return f"{policy}-look-{number}"


def irpojob(policy: Desired, name: str, base: str, until: datetime) -> Manifest:
    """Render a retraining's IRPOJob: the template, completed with the base model, the log and the gates."""
    spec = policy.spec.template.spec.to_api()
    config = dict(spec["config"])
    config["base"] = f"{spec['storage']['url']}/models/{base}"
    config["epochs"] = 1
    feedback = {k: v for k, v in config.get("feedback", {}).items() if k not in ("source", "path", "judge")}
    source = {"source": "lake", "path": policy.spec.source.lake, "until": timestamp(until)}
    config["feedback"] = {**feedback, **source}
    spec["config"], spec["gates"] = config, policy.spec.gates
    result = _object(policy, API_VERSION, "IRPOJob", name)
    result["metadata"]["labels"] = {**policy.spec.template.labels, **result["metadata"]["labels"]}
    result["metadata"]["annotations"] = dict(policy.spec.template.annotations)
    return {**result, "spec": spec}


def look_job(policy: Desired, name: str, serving: str, since: datetime | None) -> Manifest:
    """Render a look Job; its termination message is the decision of `llm-auction due` as JSON."""
    template = policy.spec.template.spec
    window_s = template.config.get("feedback", {}).get("window_s")
    arguments = [
        "--log-format",
        "json",
        "due",
        "--lake",
        policy.spec.source.lake,
        "--registry",
        template.storage.url,
        "--serving",
        serving,
        "--triggers",
        json.dumps(policy.spec.triggers, sort_keys=True),
        "--outcome",
        TERMINATION_LOG,
        *(["--window", f"{window_s:g}"] if window_s is not None else []),
        *(["--since", since.isoformat(timespec="seconds")] if since is not None else []),
    ]
    spec = {
        "backoffLimit": 0,
        "activeDeadlineSeconds": LOOK_DEADLINE_S,
        "template": {
            "metadata": {
                "labels": {POLICY_LABEL: policy.name},
                "annotations": dict(policy.spec.look.pods.pod_annotations),
            },
            "spec": pod_around(template, policy.spec.look.pods, arguments),
        },
    }
    return {**_object(policy, "batch/v1", "Job", name), "spec": spec}


def promotion(policy: Desired, model: str, digest: str) -> Manifest:
    """Render the change that makes a result the service's model; it touches no other field."""
    metadata = {"name": policy.spec.service.name, "namespace": policy.namespace}
    spec = {"model": {"name": model, "digest": digest}}
    return {"apiVersion": API_VERSION, "kind": "AuctionService", "metadata": metadata, "spec": spec}


def _object(policy: Desired, version: str, kind: str, name: str) -> Manifest:
    labels = {"app.kubernetes.io/part-of": "llm-auction", POLICY_LABEL: policy.name}
    return owned_object(policy, KIND, version, kind, name, labels)
