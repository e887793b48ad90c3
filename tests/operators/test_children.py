"""Which objects need no write."""

from __future__ import annotations

from typing import Any

import pytest

from operators.children import DIGEST_ANNOTATION, contains, stamped
from operators.objects import has_other_manager

SAME: dict[str, tuple[Any, Any]] = {
    "defaults of the API server": ({"a": 1, "protocol": "TCP"}, {"a": 1}),
    "a quantity in its shortest form": ({"cpu": "500m", "memory": "1Gi"}, {"cpu": "0.5", "memory": "1024Mi"}),
    "a number as a quantity": ({"cpu": "2"}, {"cpu": 2}),
    "empty fields left out": ({}, {"env": [], "nodeSelector": {}, "value": "", "readOnly": False}),
    "a further element of a named list": (
        {"env": [{"name": "b"}, {"name": "a", "value": "1"}]},
        {"env": [{"name": "a"}]},
    ),
}
OTHER: dict[str, tuple[Any, Any]] = {
    "another value": ({"image": "b"}, {"image": "a"}),
    "a missing field": ({}, {"image": "a"}),
    "a flag": ({"enableServiceLinks": True}, {"enableServiceLinks": False}),
    "an element removed": ({"env": [{"name": "b"}]}, {"env": [{"name": "a"}]}),
    "an argument added": ({"args": ["a", "b"]}, {"args": ["a"]}),
    "arguments in another order": ({"args": ["b", "a"]}, {"args": ["a", "b"]}),
    "a list in place of a value": ({"value": ["a"]}, {"value": "a"}),
    "a value in place of a list": ({"args": "a"}, {"args": ["a"]}),
    "a value in place of an object": ({"spec": "a"}, {"spec": {"a": 1}}),
    "a flag in place of a number": ({"replicas": True}, {"replicas": 2}),
}


@pytest.mark.parametrize("case", SAME)
def test_what_differs_in_form_alone_is_current(case: str) -> None:
    existing, wanted = SAME[case]
    assert contains(existing, wanted)


@pytest.mark.parametrize("case", OTHER)
def test_what_was_changed_is_not_current(case: str) -> None:
    existing, wanted = OTHER[case]
    assert not contains(existing, wanted)


def test_a_field_that_the_manifest_no_longer_has_is_found_by_the_digest() -> None:
    before = {"metadata": {"name": "a"}, "spec": {"priorityClassName": "high", "replicas": 1}}
    after = {"metadata": {"name": "a"}, "spec": {"replicas": 1}}
    assert contains(before, after)
    assert not contains(stamped(before), stamped(after))
    assert contains(stamped(before), stamped(before))
    assert set(stamped(before)["metadata"]["annotations"]) == {DIGEST_ANNOTATION}


def test_the_manager_of_a_field_is_read_from_the_object() -> None:
    def owner(manager: str) -> dict[str, Any]:
        return {"manager": manager, "fieldsV1": {"f:spec": {"f:replicas": {}}}}

    def item(*entries: dict[str, Any]) -> dict[str, Any]:
        return {"metadata": {"managedFields": list(entries)}}

    assert has_other_manager(item(owner("kube-controller-manager"), owner("llm-auction-operator")), "replicas")
    assert not has_other_manager(item(owner("llm-auction-operator")), "replicas")
    assert not has_other_manager(item(owner("kubectl")), "template")
    assert not has_other_manager({"metadata": {}}, "replicas")
