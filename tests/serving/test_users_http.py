"""The users of an advertiser over HTTP: managers book and manage keys, viewers read, and the history names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., Any]
CAMPAIGN = {"id": "kites", "name": "Spring", "bid_micros": 450_000, "currency": "EUR"}


@pytest.fixture
def falcon(start: Start) -> Any:
    """A router with a manager's key of Falcon, as an administrator issued it, as `manager`."""
    router = start("Hello.")
    router.manager = issue(router, None, role="advertiser", label="Ann", advertiser_id="Falcon").json()["secret"]
    return router


def issue(router: Any, key: str | None, **given: str) -> Any:
    return router.call("POST", "/v1/keys", key, json=given)


def test_a_manager_lets_colleagues_in_and_the_history_names_them(falcon: Any) -> None:
    bob = issue(falcon, falcon.manager, role="advertiser", label="Bob")
    eve = issue(falcon, falcon.manager, role="viewer", label="Eve", advertiser_id="Falcon")
    assert (bob.status_code, eve.status_code) == (201, 201)
    assert {one.json()["key"]["advertiser_id"] for one in (bob, eve)} == {"Falcon"}
    assert falcon.call("POST", "/v1/campaigns", bob.json()["secret"], json=CAMPAIGN).status_code == 201
    refused = falcon.call("POST", "/v1/campaigns", eve.json()["secret"], json=CAMPAIGN | {"id": "other"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    (made,) = falcon.call("GET", "/v1/campaigns/kites/changes", eve.json()["secret"]).json()["items"]
    assert made["by"] == {"role": "advertiser", "key_id": bob.json()["key"]["id"], "name": "Bob"}
    keys = falcon.call("GET", "/v1/changes?subject=key", falcon.manager).json()["items"]
    assert [(one["subject_id"], one["by"]["name"]) for one in keys[:2]] == [
        (eve.json()["key"]["id"], "Ann"),
        (bob.json()["key"]["id"], "Ann"),
    ]


def test_users_are_listed_and_revoked_by_their_own_managers_alone(falcon: Any) -> None:
    eve = issue(falcon, falcon.manager, role="viewer", label="Eve").json()
    eagle = issue(falcon, None, role="advertiser", label="Zoe", advertiser_id="Eagle").json()["secret"]
    listed = falcon.call("GET", "/v1/keys", eve["secret"]).json()["items"]
    assert [(one["label"], one["role"]) for one in listed] == [("Ann", "advertiser"), ("Eve", "viewer")]
    assert falcon.call("GET", "/v1/keys?advertiser_id=Falcon", eagle).status_code == 403
    path = f"/v1/keys/{eve['key']['id']}"
    assert falcon.call("POST", path + "/revoke", eagle).status_code == 404
    ann = listed[0]["id"]
    assert falcon.call("POST", f"/v1/keys/{ann}/revoke", eve["secret"]).status_code == 404
    assert falcon.call("POST", path + "/rotate", falcon.manager, json={"overlap_s": 600}).status_code == 201
    assert falcon.call("POST", path + "/revoke", falcon.manager).status_code == 200
    assert falcon.call("GET", "/v1/campaigns", eve["secret"]).status_code == 401


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"role": "admin"}, "role"),
        ({"role": "publisher"}, "role"),
        ({"role": "viewer", "advertiser_id": "Eagle"}, "advertiser_id"),
    ],
)
def test_a_manager_gives_no_rights_that_it_does_not_have(falcon: Any, given: dict[str, str], field: str) -> None:
    refused = issue(falcon, falcon.manager, label="x", **given)
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, field)


def test_a_viewer_issues_no_keys(falcon: Any) -> None:
    eve = issue(falcon, falcon.manager, role="viewer", label="Eve").json()["secret"]
    assert issue(falcon, eve, role="viewer", label="x").status_code == 403
