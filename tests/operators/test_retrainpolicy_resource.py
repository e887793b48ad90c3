"""Which RetrainPolicies the API server accepts and refuses, and whether it accepts a policy's objects."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus
from operators.retrainpolicy.manifests import irpojob, look_job
from operators.retrainpolicy.observe import Desired
from tests.support.cluster.control_plane import ControlPlane

from .examples import PLACE, create, example

pytestmark = pytest.mark.usefixtures("definitions")


def test_the_example_is_accepted_with_the_trainers_default_triggers_and_a_mutable_template(
    api: client.ApiClient, namespace: str
) -> None:
    kept = create(api, namespace, "retrainpolicies", example("06-retrain.yaml"))
    read = RetrainPolicySpec.model_validate(kept["spec"])
    assert read.trigger_config().drift.population == 0.05
    assert read.trigger_config().new_interactions == 20_000
    objects = client.CustomObjectsApi(api)
    change = {"spec": {"template": {"spec": {"image": "llm-auction-trainer:0.2.0"}}}}
    objects.patch_namespaced_custom_object(*PLACE, namespace, "retrainpolicies", "nightly", change)


REFUSED = {
    "an unknown trigger": ({"triggers__moon": "full"}, "unknown field"),
    "a trigger of 0": ({"triggers__new_interactions": 0}, "new_interactions"),
    "a base model": ({"template__spec__config__base": "smollm2-135m"}, "leave out config.base"),
    "a feedback source": (
        {"template__spec__config__feedback": {"source": "lake", "path": "/x"}},
        "leave out source, path, judge, since and until of config.feedback",
    ),
    "pods for the feedback of a log": (
        {"template__spec__steps__feedback": {"pods": 2}},
        "leave out steps.feedback: the step reward takes one snapshot",
    ),
    "gates in the template": ({"template__spec__gates": {}}, "leave out gates"),
    "a gate out of range": ({"gates__min_auc": 2}, "min_auc"),
    "an estimator that does not fit": (
        {"gates__offpolicy": {"action": "ads", "method": "snips"}},
        "action ads needs method dr",
    ),
    "a world without its files": (
        {"gates__simulator": {"kind": "webis"}},
        "path belongs to the kinds of imported data",
    ),
    "several epochs": ({"template__spec__config__epochs": 2}, "leave out config.epochs"),
    "a log outside all volumes": ({"source__lake": "/elsewhere"}, "source.lake must lie below the mountPath"),
    "a malformed schedule": ({"schedule__cron": "at dawn"}, "cron"),
    "looks without a pause": ({"look__everySeconds": 1}, "everySeconds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_specification_is_refused(api: client.ApiClient, namespace: str, case: str) -> None:
    changes, expected = REFUSED[case]
    with pytest.raises(ApiException) as refused:
        create(api, namespace, "retrainpolicies", example("06-retrain.yaml", **copy.deepcopy(changes)))
    assert refused.value.status in (400, 422)
    assert expected in str(refused.value.body)


@pytest.mark.parametrize(("feedback", "expected"), [({"window_s": 600}, ["600"]), ({}, [])])
def test_triggers_count_clicks_within_the_retrainings_own_window(
    feedback: dict[str, float], expected: list[str]
) -> None:
    found = example("06-retrain.yaml")["spec"]
    found["template"]["spec"]["config"]["feedback"] = feedback
    spec, now = RetrainPolicySpec.model_validate(found), datetime(2026, 11, 25, tzinfo=UTC)
    desired = Desired("nightly", "default", "9f1c6b6e", 1, now, spec, RetrainPolicyStatus())
    [container] = look_job(desired, "look", "v1", now)["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    assert [value for name, value in pairwise(arguments) if name == "--window"] == expected


def test_the_api_server_accepts_every_object_of_a_policy(
    own_control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    spec, now = RetrainPolicySpec.model_validate(example("06-retrain.yaml")["spec"]), datetime(2026, 11, 25, tzinfo=UTC)
    desired = Desired("nightly", namespace, "9f1c6b6e-8b0c-4b9e-9d8d-000000000000", 1, now, spec, RetrainPolicyStatus())
    items = [irpojob(desired, "nightly-1", "v1", now), look_job(desired, "nightly-look-1", "v1", now)]
    (tmp_path / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    output = own_control_plane.kubectl(
        "apply", "--server-side", "--validate=strict", "-n", namespace, "-f", str(tmp_path / "all.json")
    )
    assert output.count("serverside-applied") == 2
