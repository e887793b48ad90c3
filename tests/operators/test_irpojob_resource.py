"""Which IRPOJobs the API server accepts and refuses, without an operator."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from operators.resources.irpojob import IRPOJobSpec
from tests.support.cluster.control_plane import ControlPlane
from trainers.config import RunConfig

from .examples import EXAMPLES, PLACE, create, example

pytestmark = pytest.mark.usefixtures("definitions")


def refusal(api: client.ApiClient, namespace: str, made: dict[str, Any]) -> str:
    with pytest.raises(ApiException) as refused:
        create(api, namespace, "irpojobs", made)
    assert refused.value.status in (400, 422)
    return str(refused.value.body)


def test_defaults_are_those_of_the_trainers_configuration(api: client.ApiClient, namespace: str) -> None:
    kept = create(api, namespace, "irpojobs", example("01-quick.yaml"))
    assert kept["spec"]["maxRestarts"] == 3
    assert kept["spec"]["config"]["optimisation"]["warm_up"] == 0.1
    given = {**example("01-quick.yaml")["spec"]["config"], "name": "quick"}
    assert IRPOJobSpec.model_validate(kept["spec"]).run_config("quick") == RunConfig.model_validate(given)


CLAIM = {"name": "runs", "mountPath": "/runs", "persistentVolumeClaim": {"claimName": "runs"}}
REFUSED = {
    "an unknown field": ({"colour": "red"}, "unknown field"),
    "an unknown setting": ({"config__optimisation__momentum": 0.9}, "unknown field"),
    "a run's name": ({"config__name": "other"}, "unknown field"),
    "its processes": ({"config__optimisation__processes": 4}, "unknown field"),
    "no epochs": ({"config__epochs": 0}, "greater than or equal to 1"),
    "a beta of 0": ({"config__optimisation__beta": 0}, "beta"),
    "an unknown stage": ({"config__optimisation__zero_stage": 4}, "Unsupported value: 4"),
    "a batch that cannot be divided": (
        {"steps__optimisation__pods": 3},
        "must be a multiple of steps.optimisation.pods times processesPerPod",
    ),
    "gates without a log": ({"gates": {}}, "gates read the log that the base model wrote"),
    "an unknown gate": ({"gates": {"luck": 1}}, "unknown field"),
    "an init container named as the training": (
        {"initContainers": [{"name": "train", "image": "a:1"}]},
        "must have different names, other than train",
    ),
    "a mount without its volume": (
        {"initContainers": [{"name": "a", "image": "a:1", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]},
        "must name one of the job's volumes",
    ),
    "a claim without a source": (
        {"steps__optimisation__resourceClaims": [{"name": "gpus"}]},
        "give one of resourceClaimName and resourceClaimTemplateName",
    ),
    "more pods than contexts": ({"steps__rollouts__pods": 301}, "at most config.rollout.contexts"),
    "more pods than contexts to learn from": ({"steps__pairs__pods": 301}, "at most config.rollout.contexts"),
    "more pods than contexts to answer": ({"steps__feedback": {"pods": 501}}, "at most config.feedback.contexts"),
    "more pods than validation contexts": (
        {"steps__evaluation__pods": 257},
        "steps.evaluation.pods must be at most config.evaluation.validation",
    ),
    "pods for the feedback of a log": (
        {
            "config__epochs": 1,
            "config__feedback": {"source": "lake", "path": "s3://bucket/lake"},
            "steps__feedback": {"pods": 2},
        },
        "leave out steps.feedback with feedback.source lake",
    ),
    "too many epochs": ({"config__epochs": 1000}, "at most 999"),
    "idle GPUs": (
        {"steps__optimisation__gpus": 8, "steps__optimisation__processesPerPod": 4},
        "give processesPerPod the same number as gpus",
    ),
    "a learning rate above the limit": ({"config__optimisation__learning_rate": 2800}, "learning_rate"),
    "one answer, so no pair": ({"config__rollout__samples": 1}, "samples"),
    "an image with a space": ({"image": "My Image"}, "image"),
    "a path outside all volumes": ({"storage__url": "/elsewhere/run"}, "storage.url must lie below"),
    "a path beside a volume": ({"storage__url": "/runs-2"}, "storage.url must lie below"),
    "a relative path": ({"storage__url": "runs/quick"}, "absolute path"),
    "a volume that ends with the pod": (
        {"volumes": [{"name": "runs", "mountPath": "/runs", "emptyDir": {}}]},
        "storage.url must lie below",
    ),
    "a volume of two kinds": ({"volumes": [{**CLAIM, "emptyDir": {}}]}, "give one of persistentVolumeClaim"),
    "two volumes of one name": ({"volumes": [CLAIM, {**CLAIM, "mountPath": "/more"}]}, "different names"),
    "checkpoints that end with the pod": (
        {"storage__url": "s3://bucket/auction", "config__optimisation__checkpoint_steps": 5},
        "needs storage.cache",
    ),
    "a value and its source": (
        {"env": [{"name": "K", "value": "v", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        "not both",
    ),
    "two epochs of a log": (
        {"config__feedback": {"source": "lake", "path": "s3://bucket/lake"}},
        "only a policy that serves has a log",
    ),
    "a log without a path": (
        {"config__epochs": 1, "config__feedback": {"source": "lake"}},
        "path belongs to the source lake",
    ),
    "a world without a path": ({"config__world": {"kind": "webis"}}, "path belongs to the kinds"),
    "native answers of a world without any": (
        {"config__warm_start": {"source": "native"}},
        "needs a world of kind naiad or native-ads",
    ),
    "edits of no answer": ({"config__preference__edited": 0}, "edited needs swaps or removals"),
    "an adapter on a warm start": (
        {"config__optimisation__lora_rank": 4, "config__warm_start": {"contexts": 10}},
        "lora_rank needs a run without warm_start",
    ),
    "answers that RLOO did not write": ({"config__optimisation__objective": "rloo"}, "needs preference.edited"),
    "a malformed quantity": ({"steps__reward__resources": {"limits": {"memory": "many"}}}, "memory"),
    "a negative number of restarts": ({"maxRestarts": -1}, "maxRestarts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_specification_is_refused(api: client.ApiClient, namespace: str, case: str) -> None:
    changes, expected = REFUSED[case]
    assert expected in refusal(api, namespace, example("01-quick.yaml", **copy.deepcopy(changes)))


@pytest.mark.parametrize("name", ["models", "1st", "a" * 41, "with.dot"])
def test_names_that_owned_objects_could_not_carry_are_refused(api: client.ApiClient, namespace: str, name: str) -> None:
    made = example("01-quick.yaml")
    made["metadata"]["name"] = name
    assert "name" in refusal(api, namespace, made)


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"epochs": 3}},
        {"image": "llm-auction:0.2.0"},
        {"storage": {"url": "/runs/other"}},
        {"steps": {"rollouts": {"pods": 2}}},
        {"queueName": "training"},
        {"gates": {"min_auc": 0.6}},
        {"env": [{"name": "A", "value": "b"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_run_depends_on_is_immutable(api: client.ApiClient, namespace: str, change: dict[str, Any]) -> None:
    create(api, namespace, "irpojobs", example("01-quick.yaml"))
    with pytest.raises(ApiException) as refused:
        client.CustomObjectsApi(api).patch_namespaced_custom_object(
            *PLACE, namespace, "irpojobs", "quick", {"spec": change}
        )
    assert f"{next(iter(change))} is immutable: create a new object" in refused.value.body


def test_limits_and_suspension_can_change(api: client.ApiClient, namespace: str) -> None:
    create(api, namespace, "irpojobs", example("01-quick.yaml"))
    change = {"suspend": True, "maxRestarts": 9, "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 1}
    kept = client.CustomObjectsApi(api).patch_namespaced_custom_object(
        *PLACE, namespace, "irpojobs", "quick", {"spec": change}
    )
    assert {**kept["spec"], **change} == kept["spec"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_pass_a_server_side_dry_run(own_control_plane: ControlPlane, namespace: str, path: Path) -> None:
    output = own_control_plane.kubectl("apply", "--server-side", "--dry-run=server", "-n", namespace, "-f", str(path))
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert output.count("serverside-applied (server dry run)") == len(documents)


def test_kubectl_explains_the_job(own_control_plane: ControlPlane) -> None:
    output = own_control_plane.kubectl("explain", "irpojob.spec.config.preference")
    assert "delta_th, bid points by which a winner" in " ".join(output.split())
    assert "(at least 0, default 10.0)" in " ".join(output.split())
    assert "What to train, on which pods" in own_control_plane.kubectl("explain", "irpo.spec")
