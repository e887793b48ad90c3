"""Every response tells browsers to load nothing that it does not need, and not to guess its type."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/assets/app.js", 200),
        ("GET", "/favicon.ico", 200),
        ("GET", "/demo/none", 404),
        ("GET", "/c/forged", 404),
        ("GET", "/livez", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/keys", 405),
        ("GET", "/v1/keys", 401),
        ("GET", "/v1/models", 200),
        ("POST", "/v1/session", 400),
    ],
)
def test_every_response_has_safety_headers(shared: Any, method: str, path: str, status: int) -> None:
    response = httpx.request(method, shared.url + path)
    assert response.status_code == status
    check(response)


@pytest.mark.parametrize("stream", [False, True])
def test_answers_have_safety_headers(shared: Any, stream: bool) -> None:
    check(shared.post(stream=stream))


def check(response: httpx.Response) -> None:
    assert response.headers.get_list("x-content-type-options") == ["nosniff"]
    [policy] = response.headers.get_list("content-security-policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert response.headers.get_list("referrer-policy") == ["no-referrer"]
