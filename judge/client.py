"""One chat completion from an OpenAI-compatible endpoint: time limits, retries with back-off, cost.

What a reply must contain is left to `user_model`. Messages and replies hold personal data: neither is ever logged or
put into an error.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from judge.cost import CostMeter
from mechanism.errors import InputError, JudgeError

log = logging.getLogger(__name__)

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
TOKENS_PER_MESSAGE = 64
"""Upper bound of what a chat template adds to one message, in tokens."""
_CODE = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Where the judge is and how it is asked. Durations in seconds.

    `base_url` ends where "/chat/completions" follows, as for other clients of such endpoints. The API key is read from
    the environment variable `api_key_env`; None for an endpoint without a key. `response_format` is what the endpoint
    understands: a JSON schema, JSON without a schema, or neither.
    """

    base_url: str
    model: str
    api_key_env: str | None = "LLM_AUCTION_JUDGE_KEY"
    temperature: float = 0.3
    max_tokens: int = 1024
    response_format: Literal["json_schema", "json_object", "none"] = "json_schema"
    timeout: float = 60.0
    attempts: int = 5
    backoff: float = 0.5
    longest_backoff: float = 30.0
    concurrency: int = 4

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise InputError("judge.base_url", self.base_url, "give an http:// or https:// address")
        if not self.model:
            raise InputError("judge.model", self.model, "name the model to ask")
        if not 0.0 <= self.temperature <= 2.0:
            raise InputError("judge.temperature", self.temperature, "give 0 to 2")
        for name in ("max_tokens", "attempts", "concurrency"):
            if getattr(self, name) < 1:
                raise InputError(f"judge.{name}", getattr(self, name), "give 1 or more")
        for name in ("timeout", "backoff", "longest_backoff"):
            if not getattr(self, name) > 0:
                raise InputError(f"judge.{name}", getattr(self, name), "give more than 0 seconds")

    def api_key(self) -> str | None:
        """The key, or None where none is needed; InputError when the variable is not set."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise InputError(
                self.api_key_env, "not set", "set this environment variable, or api_key_env to null for no key"
            )
        return key


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failed attempt worth another: what happened, and how long the endpoint asked to wait (seconds)."""

    what: str
    wait: float | None = None


@dataclass(slots=True)
class ChatClient:
    """A client for one endpoint and model; safe for threads. Close it, or use it as a context manager."""

    settings: EndpointSettings
    meter: CostMeter = field(default_factory=CostMeter)
    _http: httpx.Client = field(init=False)
    _slots: threading.BoundedSemaphore = field(init=False)

    def __post_init__(self) -> None:
        key = self.settings.api_key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=self.settings.concurrency)
        self._http = httpx.Client(headers=headers, timeout=self.settings.timeout, limits=limits)
        self._slots = threading.BoundedSemaphore(self.settings.concurrency)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def params(self, schema_name: str, schema: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Request parameters besides model and messages; part of the cache key."""
        params: dict[str, Any] = {
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "seed": seed,
        }
        if self.settings.response_format == "json_schema":
            body = {"name": schema_name, "strict": True, "schema": dict(schema)}
            params["response_format"] = {"type": "json_schema", "json_schema": body}
        elif self.settings.response_format == "json_object":
            params["response_format"] = {"type": "json_object"}
        return params

    def complete(self, messages: Sequence[Mapping[str, str]], params: Mapping[str, Any]) -> str:
        """The text of one completion.

        Busy or failing endpoints (429, 5xx, time-outs, broken connections, bodies that are no completion) are asked
        again up to `attempts` times with growing random waits. Raises JudgeError when they run out, for any other
        status, and when the budget does not hold the call.
        """
        body = {"model": self.settings.model, "messages": [dict(m) for m in messages], **params}
        failure = _Failure("not asked")
        for attempt in range(1, self.settings.attempts + 1):
            if attempt > 1:
                self.meter.retry()
                wait = self._wait(attempt - 1, failure)
                log.warning("judge: attempt %d failed (%s), next in %.2f s", attempt - 1, failure.what, wait)
                time.sleep(wait)
            with self._slots:
                outcome = self._attempt(body)
            if isinstance(outcome, str):
                return outcome
            failure = outcome
        raise JudgeError(
            f"judge {self.settings.model!r} at {self._place()}: {failure.what} after {self.settings.attempts} "
            "attempts: check that the endpoint is up, or raise timeout, attempts or longest_backoff"
        )

    def _attempt(self, body: Mapping[str, Any]) -> str | _Failure:
        most_read = self._most_read(body)
        reserved = self.meter.reserve(most_read, self.settings.max_tokens)
        try:
            response = self._http.post(self.settings.base_url.rstrip("/") + "/chat/completions", json=body)
        except httpx.TimeoutException:
            self.meter.release(reserved)
            return _Failure(f"no answer within {self.settings.timeout:g} s")
        except httpx.HTTPError as error:
            self.meter.release(reserved)
            return _Failure(f"connection failed ({type(error).__name__})")
        except BaseException:
            self.meter.release(reserved)
            raise
        if response.status_code != httpx.codes.OK:
            self.meter.release(reserved)
            what = f"status {response.status_code}{_error_code(response)}"
            if response.status_code in RETRIED:
                return _Failure(what, _retry_after(response))
            raise JudgeError(
                f"judge {self.settings.model!r} at {self._place()}: {what}: check address, key, model name and "
                "response_format"
            )
        content, read, written = _completion(response)
        metered = read is not None and written is not None
        if content is None and not metered:
            self.meter.release(reserved)
            return _Failure("the body is not a chat completion")
        self.meter.settle(
            reserved,
            read if read is not None else most_read,
            written if written is not None else self.settings.max_tokens,
            metered=metered,
        )
        return content if content is not None else _Failure("the completion has no text")

    def _most_read(self, body: Mapping[str, Any]) -> int:
        """Tokens that a request can have at most: a token is at least one byte, plus the chat template's own."""
        texts = [*(m["content"] for m in body["messages"]), json.dumps(body.get("response_format"))]
        return sum(len(text.encode("utf-8", errors="replace")) + TOKENS_PER_MESSAGE for text in texts)

    def _wait(self, failures: int, failure: _Failure) -> float:
        """Exponential with jitter; what the endpoint asks for counts, within `longest_backoff`."""
        drawn = math.ldexp(self.settings.backoff, min(failures - 1, 60)) * random.uniform(0.5, 1.0)
        return min(self.settings.longest_backoff, max(drawn, failure.wait or 0.0))

    def _place(self) -> str:
        """The endpoint without user, password or query string."""
        url = httpx.URL(self.settings.base_url)
        return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"


def _completion(response: httpx.Response) -> tuple[str | None, int | None, int | None]:
    """(text, tokens read, tokens written) of a completion; None for what is missing."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return None, None, None
    if not isinstance(body, dict):
        return None, None, None
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (c if isinstance(c, int) and not isinstance(c, bool) and c >= 0 else None for c in counts)
    try:
        content = body["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        content = None
    return (content if isinstance(content, str) else None), read, written


def _error_code(response: httpx.Response) -> str:
    """The endpoint's error code. Its message is left out: it may quote the request."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f" ({code})" if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds from a Retry-After header; dates are not read."""
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.isascii() and value.isdigit() else None
