"""All routes: the OpenAPI document lists them, schemathesis finds no 500 by it, and each GET answers HEAD."""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from serving.http.app import create_app

PATHS = {
    "/.well-known/jwks.json",
    "/v1/auctions/{auction_id}/receipt",
    "/c/{token}",
    "/demo/{ad_id}",
    "/livez",
    "/readyz",
    "/v1/accounts",
    "/v1/payments",
    "/v1/statements",
    "/metrics",
    "/v1/auctions",
    "/v1/auctions/{auction_id}",
    "/v1/campaigns",
    "/v1/campaigns:batch",
    "/v1/campaigns/{campaign_id}",
    "/v1/campaigns/{campaign_id}/changes",
    "/v1/campaigns/{campaign_id}/delivery",
    "/v1/changes",
    "/v1/campaigns/{campaign_id}/end",
    "/v1/campaigns/{campaign_id}/pause",
    "/v1/campaigns/{campaign_id}/resume",
    "/v1/caller",
    "/v1/chat/completions",
    "/v1/creatives/{creative_id}/review",
    "/v1/deliveries",
    "/v1/erasures",
    "/v1/conversions",
    "/v1/keys",
    "/v1/keys/{key_id}/revoke",
    "/v1/keys/{key_id}/rotate",
    "/v1/payouts",
    "/v1/placements",
    "/v1/placements/{placement_id}",
    "/v1/publishers",
    "/v1/publishers/{publisher_id}",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/reports",
    "/v1/reports/events",
    "/v1/reports/series",
    "/v1/responses",
    "/v1/session",
    "/v1/summary",
}


def test_the_document_lists_every_route(shared: Any) -> None:
    document = shared.get("/openapi.json").json()
    assert set(document["paths"]) == PATHS
    body = document["paths"]["/v1/campaigns"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/CampaignInput"}


KNOWN = {"campaign_id": "catalogue-A6", "creative_id": "A6"}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))


def operations() -> list[tuple[str, str]]:
    both = dict.fromkeys(
        ("/v1/campaigns", "/v1/erasures", "/v1/keys", "/v1/payments", "/v1/placements", "/v1/publishers"),
        ("GET", "POST"),
    )
    methods = both | {
        "/v1/accounts": ("GET", "PUT"),
        "/v1/session": ("POST", "DELETE"),
        "/v1/publishers/{publisher_id}": ("PATCH",),
        "/v1/placements/{placement_id}": ("PATCH",),
    }
    posted = (
        ":batch",
        "/completions",
        "/conversions",
        "/responses",
        "/end",
        "/pause",
        "/resume",
        "/review",
        "/revoke",
        "/rotate",
    )
    return [
        (path, method)
        for path in sorted(PATHS)
        for method in methods.get(path, ("POST",) if path.endswith(posted) else ("GET",))
    ] + [("/v1/campaigns/{campaign_id}", "PATCH")]


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), operations())
def test_no_generated_request_is_answered_by_a_500(shared: Any, path: str, method: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(shared.get("/openapi.json").json())
    schema.config.update(base_url=shared.url)
    headers = {"Authorization": f"Bearer {shared.admin}"}
    seen: list[int] = []
    known = {name: value for name, value in KNOWN.items() if "{" + name + "}" in path} or None

    @settings(max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(mode, path_parameters=known))
    def send(case: Any) -> None:
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "scripted"  # otherwise every response would be "no such model"
        response = case.call(headers=headers, timeout=20, allow_redirects=False)
        seen.append(response.status_code)
        assert response.status_code < 500, response.text

    try:
        send()
    except Unsatisfiable:
        pytest.skip("there is no request of this kind for the operation")
    assert seen


PATH_VALUES = {
    "{auction_id:str}": "x",
    "{ad_id:str}": "A1",
    "{token:str}": "x",
    "{campaign_id:str}": "catalogue-A1",
    "{name:path}": "scripted",
}


def test_head_has_the_status_and_headers_of_get(shared: Any) -> None:
    succeeded = 0
    for route in create_app(shared.router).routes:
        if "GET" not in route.methods:
            continue
        path = route.path
        for pattern, value in PATH_VALUES.items():
            path = path.replace(pattern, value)
        got, head = shared.call("GET", path), shared.call("HEAD", path)
        assert head.status_code == got.status_code != 405, path
        kind = got.headers.get("content-type", "")
        assert head.headers.get("content-type", "") == kind
        assert kind.count("charset") == kind.startswith("text/"), (path, kind)
        assert head.content == b""
        succeeded += got.status_code == 200
    assert succeeded > 10


def test_head_is_not_allowed_where_there_is_only_post(shared: Any) -> None:
    assert shared.call("HEAD", "/v1/chat/completions").status_code == 405
