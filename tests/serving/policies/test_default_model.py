"""The model name "default" stands for the served model, whatever writes the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from cli.backends import openai_compatible, routed
from serving.settings import ServeSettings
from tests.serving.policies.triton_site import Site

Router = Callable[..., Any]


def check_default(running: Any, text: str) -> None:
    """Ask for the default model, plain and streamed, with a seed that the scripted model on Triton understands."""
    question = {"messages": [{"role": "user", "content": "Hello?"}], "seed": 2, "ads": {"enabled": False}}
    plain = running.ask(model="default", **question)
    assert plain["model"] == "scripted"
    assert text in plain["choices"][0]["message"]["content"]
    streamed = running.client.chat.completions.create(
        model="default", stream=True, messages=question["messages"], seed=2
    )
    chunks = list(streamed)
    assert {chunk.model for chunk in chunks} == {"scripted"}
    assert text in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert running.client.models.retrieve("default").id == "scripted"


def test_a_policy_in_this_process(router: Router, scripted: Router, tmp_path: Path) -> None:
    with router(tmp_path, scripted("Hello.")) as running:
        check_default(running, "Hello.")
        with pytest.raises(openai.NotFoundError):
            running.client.chat.completions.create(model="Default", messages=[{"role": "user", "content": "Hello?"}])


def test_another_router_upstream(router: Router, scripted: Router, tmp_path: Path) -> None:
    with router(tmp_path / "upstream", scripted("Hello."), ads=0) as upstream:
        backend = openai_compatible(upstream.url, "default", in_flight=4, tags=False, opener=None)()
        with router(tmp_path / "front", None, backend=backend, ads=0) as running:
            check_default(running, "Hello.")


def test_a_route_file_with_a_version_on_triton(router: Router, site: Site, tmp_path: Path) -> None:
    version = {"name": "v1", "weight": 100, "digest": site.wide.digest}
    routes = tmp_path / "routes.json"
    address = f"triton 127.0.0.1:{site.server.grpc}"
    routes.write_text(json.dumps({"generation": 1, "versions": [version | {"policy": address}]}))
    backend = routed(routes, ServeSettings(state_dir=tmp_path))()
    with router(tmp_path / "front", None, backend=backend, ads=0) as running:
        check_default(running, ":1 ")
