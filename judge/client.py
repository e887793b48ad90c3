"""Chat completions from an OpenAI-compatible endpoint, with timeouts, retries and metered cost.

What a reply must contain is decided by the caller. Messages and replies contain personal data: neither is ever logged
or put into an error.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import httpx
import structlog

from judge.cost import CostMeter
from mechanism.errors import InputError, JudgeError

log = structlog.get_logger(__name__)

RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
TOKENS_PER_MESSAGE = 64
"""Upper bound of the tokens that a chat template adds to one message."""
_CODE = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Address, model and request parameters of an endpoint. Durations are in seconds.

    `base_url` is the address to which clients append "/chat/completions". The API key is read from the environment
    variable `api_key_env`, None for an endpoint without keys. `response_format` is the strictest format that the
    endpoint supports: JSON by a schema, JSON without a schema, or plain text. An invalid field is an InputError.
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
            raise InputError("judge.model", self.model, "name the model")
        if not 0.0 <= self.temperature <= 2.0:
            raise InputError("judge.temperature", self.temperature, "give 0 to 2")
        for name in ("max_tokens", "attempts", "concurrency"):
            if getattr(self, name) < 1:
                raise InputError(f"judge.{name}", getattr(self, name), "give 1 or more")
        for name in ("timeout", "backoff", "longest_backoff"):
            if not getattr(self, name) > 0:
                raise InputError(f"judge.{name}", getattr(self, name), "give more than 0 seconds")

    def api_key(self) -> str | None:
        """Return the API key, or None if none is needed.

        Raises:
            InputError: if the environment variable is not set.
        """
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
    """A failed attempt that may be retried: the reason, and the wait that the endpoint requested, in seconds."""

    reason: str
    wait: float | None = None


@dataclass(slots=True)
class ChatClient:
    """A thread-safe client for one endpoint and model. Close it, or use it as a context manager."""

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

    def params(self, schema_name: str, schema: Mapping[str, object], seed: int) -> dict[str, object]:
        """Return the request parameters besides model and messages; they are part of the cache key."""
        params: dict[str, object] = {
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

    def complete(self, messages: Sequence[Mapping[str, str]], params: Mapping[str, object]) -> str:
        """Return the text of one completion.

        Requests to a busy or failing endpoint (429, 5xx, timeouts, broken connections, bodies that are not a
        completion) are repeated, up to `attempts` in all, with growing random waits.

        Raises:
            JudgeError: if all attempts fail, or the endpoint refuses the request; BudgetSpentError if the budget does
                not cover it.
        """
        body = {"model": self.settings.model, "messages": [dict(m) for m in messages], **params}
        max_read = _max_tokens_read(messages, params)
        failure = _Failure("no attempt")
        for attempt in range(1, self.settings.attempts + 1):
            if attempt > 1:
                self.meter.count_retry()
                wait = self._wait(attempt - 1, failure)
                log.warning("judge.attempt_failed", attempt=attempt - 1, reason=failure.reason, wait_s=round(wait, 2))
                time.sleep(wait)
            with self._slots:
                outcome = self._attempt(body, max_read)
            if isinstance(outcome, str):
                return outcome
            failure = outcome
        raise JudgeError(
            f"judge {self.settings.model!r} at {self._place()}: {failure.reason} after {self.settings.attempts} "
            "attempts: check that the endpoint is up, or raise timeout, attempts or longest_backoff"
        )

    def _attempt(self, body: Mapping[str, object], max_read: int) -> str | _Failure:
        reserved = self.meter.reserve(max_read, self.settings.max_tokens)
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
            reason = f"status {response.status_code}{_error_code(response)}"
            if response.status_code in RETRIED_STATUSES:
                return _Failure(reason, _retry_after(response))
            raise JudgeError(
                f"judge {self.settings.model!r} at {self._place()}: {reason}: check address, key, model name and "
                "response_format"
            )
        content, read, written = _completion(response)
        metered = read is not None and written is not None
        if content is None and not metered:
            self.meter.release(reserved)
            return _Failure("the body is not a chat completion")
        self.meter.charge(
            reserved,
            read if read is not None else max_read,
            written if written is not None else self.settings.max_tokens,
            metered=metered,
        )
        return content if content is not None else _Failure("the completion has no text")

    def _wait(self, failures: int, failure: _Failure) -> float:
        """Return an exponential wait with jitter, or the endpoint's own if longer, within `longest_backoff`."""
        drawn = math.ldexp(self.settings.backoff, min(failures - 1, 60)) * random.uniform(0.5, 1.0)
        return min(self.settings.longest_backoff, max(drawn, failure.wait or 0.0))

    def _place(self) -> str:
        """Return the endpoint's address without user, password or query string."""
        url = httpx.URL(self.settings.base_url)
        return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path}"


def _max_tokens_read(messages: Sequence[Mapping[str, str]], params: Mapping[str, object]) -> int:
    """Return an upper bound of a request's tokens: one for each byte, plus what the chat template adds."""
    texts = [*(m["content"] for m in messages), json.dumps(params.get("response_format"))]
    return sum(len(text.encode("utf-8", errors="replace")) + TOKENS_PER_MESSAGE for text in texts)


def _completion(response: httpx.Response) -> tuple[str | None, int | None, int | None]:
    """Return (text, tokens read, tokens written) of a completion, each None if it is missing."""
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
    """Return the endpoint's error code. Its message is left out, because it may quote the request."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f" ({code})" if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of a Retry-After header; dates are ignored."""
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.isascii() and value.isdigit() else None
