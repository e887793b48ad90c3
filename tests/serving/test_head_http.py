"""What can be got can be asked for by HEAD: the same status and headers, without a body."""

from __future__ import annotations

from typing import Any

from serving.http.app import create_app

VALUES = {"{ad_id:str}": "A1", "{token:str}": "x", "{campaign_id:str}": "catalogue-A1", "{name:path}": "scripted"}


def test_head_answers_as_get_and_names_the_charset_once(shared: Any) -> None:
    asked = 0
    for route in create_app(shared.router).routes:
        if "GET" not in route.methods:
            continue
        path = route.path
        for pattern, value in VALUES.items():
            path = path.replace(pattern, value)
        got, head = shared.call("GET", path), shared.call("HEAD", path)
        assert head.status_code == got.status_code != 405, path
        kind = got.headers.get("content-type", "")
        assert head.headers.get("content-type", "") == kind
        assert kind.count("charset") == kind.startswith("text/"), (path, kind)
        assert head.content == b""
        asked += got.status_code == 200
    assert asked > 10


def test_head_is_no_way_around_post(shared: Any) -> None:
    assert shared.call("HEAD", "/v1/chat/completions").status_code == 405
