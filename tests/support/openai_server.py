"""Local OpenAI-compatible servers for the judge's tests: a scripted one for faults, and one with a real small model.

The small model decodes under the request's JSON schema: the server writes the fixed parts of the JSON, and the model
chooses every string, number and truth value by its own probabilities.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_server import QuietHandler, serving_http

STRING_TOKENS = 16


@dataclass(frozen=True)
class Reply:
    """A response: status, body (text is sent unchanged, anything else as JSON), headers, and a delay in seconds."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass(frozen=True)
class Request:
    """A received request."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass
class Server:
    """A running server: its base URL and all requests so far."""

    base_url: str
    requests: list[Request] = field(default_factory=list)


def completion(content: Any, read: int = 10, written: int = 5) -> Reply:
    """Return a well-formed chat completion; content other than text is sent as JSON text."""
    text = content if isinstance(content, str) else json.dumps(content)
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return Reply(body={"id": "c", "object": "chat.completion", "choices": choices, "usage": usage})


@contextmanager
def serving(answer: Callable[[Request], Reply]) -> Iterator[Server]:
    """Serve `answer` on a free local port inside the context."""
    server = Server("")
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.path, dict(self.headers.items()), json.loads(raw or b"{}"))
            with lock:
                server.requests.append(request)
            reply = answer(request)
            time.sleep(reply.delay)
            payload = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client timed out, as some tests want

        do_GET = do_POST

    with serving_http(Handler) as address:
        server.base_url = f"{address}/v1"
        yield server


def scripted(replies: Sequence[Reply]) -> Callable[[Request], Reply]:
    """Answer with `replies` in order, then repeat the last one."""
    remaining = list(replies)
    lock = threading.Lock()

    def answer(_: Request) -> Reply:
        with lock:
            return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    return answer


class SmallModel:
    """SmolLM2-135M-Instruct, answering chat completions under a JSON schema. It loads in about 20 s on one core."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from inference.models import resolve

        folder = resolve("smollm2-135m")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        body = request.body
        prompt = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        schema = body["response_format"]["json_schema"]["schema"]
        with self._lock:
            decoding = _Decoding(self.model, self.tokenizer, prompt, body["temperature"], body["seed"])
            decoding.value(schema)
        return completion(decoding.text, read=decoding.read, written=decoding.written)


class _Decoding:
    """The state of one answer: the model's cache, the logits of the next token (V,), and the JSON so far."""

    def __init__(self, model: Any, tokenizer: Any, prompt: str, temperature: float, seed: int) -> None:
        import torch

        self.torch, self.model, self.tokenizer = torch, model, tokenizer
        self.temperature = max(temperature, 1e-3)
        self.random = torch.Generator().manual_seed(seed)
        self.cache: Any = None
        self.logits: Any = None
        self.text, self.written = "", 0
        self.read = self._forward(prompt)

    def _forward(self, text: str) -> int:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        with self.torch.inference_mode():
            out = self.model(self.torch.tensor([ids]), past_key_values=self.cache, use_cache=True)
        self.cache, self.logits = out.past_key_values, out.logits[0, -1]
        return len(ids)

    def write(self, text: str) -> None:
        """Append fixed text."""
        self.text += text
        self.written += self._forward(text)

    def value(self, schema: Mapping[str, Any]) -> None:
        """Append a value of the schema: the server writes its structure, the model chooses its leaves."""
        kind = schema["type"]
        if kind == "object":
            for place, (name, inner) in enumerate(schema["properties"].items()):
                self.write(("{" if place == 0 else ", ") + json.dumps(name) + ": ")
                self.value(inner)
            self.write("}" if schema["properties"] else "{}")
        elif kind == "string":
            self._string()
        elif kind == "boolean":
            self._choose(["true", "false"])
        else:
            self._choose([str(n) for n in range(schema["minimum"], schema["maximum"] + 1)])

    def _choose(self, options: list[str]) -> None:
        ids = [self.tokenizer.encode(option, add_special_tokens=False) for option in options]
        assert all(len(i) == 1 for i in ids), "every option must be one token"
        self.write(options[self._sample(self.logits[self.torch.tensor([i[0] for i in ids])])])

    def _string(self) -> None:
        """Append a string of the model that begins with a word."""
        self.write('"')
        begun, length = False, 0
        while length < STRING_TOKENS:
            logits = self.logits.clone()
            token = self._sample(logits)
            piece = self.tokenizer.decode([token])
            while not (begun or piece.strip().isalpha()):
                logits[token] = -self.torch.inf
                token = self._sample(logits)
                piece = self.tokenizer.decode([token])
            begun = True
            plain = piece.split('"')[0].split("\\")[0].split("\n")[0].split("<|")[0]
            if plain:
                self.write(plain)
            if plain != piece:
                break
            length += 1
        self.write('"')

    def _sample(self, logits: Any) -> int:
        chances = self.torch.softmax(logits / self.temperature, -1)
        return int(self.torch.multinomial(chances, 1, generator=self.random))
