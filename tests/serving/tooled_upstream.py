"""An OpenAI-compatible model server with tools, JSON, several choices and log-probabilities, for the relay's tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_server import QuietHandler, serving_http

MODEL = "tooled"
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


@dataclass
class Tooled:
    """The running server: its base URL and the bodies that it got."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)


def message(body: dict[str, Any]) -> dict[str, Any]:
    """Return what the model writes: a tool call, JSON, or text."""
    if body.get("tools") and body["messages"][-1]["role"] != "tool":
        return {"role": "assistant", "content": None, "tool_calls": [CALL]}
    wanted = body.get("response_format", {}).get("type", "text")
    return {"role": "assistant", "content": '{"city": "Oslo"}' if wanted != "text" else "It is cold in Oslo."}


def completion(body: dict[str, Any]) -> dict[str, Any]:
    said = message(body)
    finish = "tool_calls" if said.get("tool_calls") else "stop"
    token = {"token": "It", "logprob": -0.1, "bytes": None, "top_logprobs": []}
    logprobs = {"content": [token], "refusal": None} if body.get("logprobs") else None
    choices = [
        {"index": i, "message": said, "finish_reason": finish, "logprobs": logprobs} for i in range(body.get("n") or 1)
    ]
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices, "usage": usage}


def frames(body: dict[str, Any]) -> Iterator[bytes]:
    said = message(body)
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if said.get("tool_calls"):
        head, tail = CALL["function"]["arguments"][:5], CALL["function"]["arguments"][5:]  # type: ignore[index]
        deltas.append({"tool_calls": [CALL | {"index": 0, "function": {"name": "weather", "arguments": head}}]})
        deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": tail}}]})
    else:
        deltas += [{"content": word} for word in said["content"].split(" ")]
    finish = "tool_calls" if said.get("tool_calls") else "stop"
    for delta in [*deltas, {}]:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else finish}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


@contextmanager
def tooled() -> Iterator[Tooled]:
    """Serve on a free port inside the context."""
    found = Tooled("")

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self._send(200, "application/json", json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.bodies.append(body)
            if body.get("tools") == [{"type": "unheard-of"}]:
                refusal = {"error": {"message": "tools[0].type: 'unheard-of' is unknown", "type": "invalid"}}
                self._send(400, "application/json", json.dumps(refusal).encode())
            elif body.get("stream"):
                self._send(200, "text/event-stream", b"".join(frames(body)))
            else:
                self._send(200, "application/json", json.dumps(completion(body)).encode())

        def _send(self, status: int, kind: str, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with serving_http(Handler) as address:
        found.url = address
        yield found
