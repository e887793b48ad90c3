"""Answers from an OpenAI-compatible server with structural tags (vLLM, SGLang), asked by `/v1/completions`.

The prompt travels as token ids, so the server's chat template has no part in it. Adapters of the run are loaded into
the server by `/v1/load_lora_adapter`, from a folder that both see.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
import openai

from inference.adapter_files import ADAPTER_WEIGHTS, base_of
from inference.models import resolve
from inference.sampling import SamplingSettings
from mechanism.errors import ConfigError, InputError, PolicyError
from trainers.config import EngineConfig
from trainers.rollout.engine import Version
from trainers.rollout.external import Asked
from trainers.rollout.written import Written

T = TypeVar("T")
ADAPTERS_PATH = "/load_lora_adapter"


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float | None] = []


class _Choice(msgspec.Struct):
    text: str
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_COMPLETION, _MODELS = msgspec.json.Decoder(_Completion), msgspec.json.Decoder(_Models)


class CompletionServer:
    """A `Writer` at a URL. Failed connections, time-outs and busy servers are asked again with growing pauses."""

    def __init__(self, config: EngineConfig) -> None:
        assert config.url is not None
        assert config.model is not None
        self._config, self._model = config, config.model
        self._url = _checked(config.url)
        self._client = openai.OpenAI(
            base_url=self._url,
            api_key=_key(config.api_key_env),
            timeout=config.timeout,
            max_retries=config.attempts - 1,
        )
        self._adapters: set[str] = set()

    @property
    def place(self) -> str:
        """The server and the model in errors."""
        return f"rollout.engine {self._model!r} at {self._url}"

    @property
    def tags(self) -> Literal["tokens", "text"]:
        """As the configuration says."""
        return self._config.tags

    def write(
        self, version: Version, asked: Sequence[Asked], settings: SamplingSettings
    ) -> Sequence[Sequence[Written]]:
        """As `Writer.write`; the requests of different contexts run at the same time."""
        model = self._served(version)
        ends = list(version.policy.end_tokens)
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            return list(pool.map(lambda one: self._completion(model, one, settings, ends), asked))

    def _served(self, version: Version) -> str:
        """Return the server's name for a version; its adapter is loaded first.

        Raises:
            ConfigError: if the server cannot be given these weights.
        """
        folder = Path(resolve(version.source))
        if base_of(folder) is None:
            if version.untrained:
                return self._model
            remedy = (
                "a server can be given adapters only: set optimisation.lora_rank, without a warm_start, or use"
                " rollout.engine transformers"
            )
            raise ConfigError("rollout.engine.kind", "server", remedy)
        name = f"{self._model}-{sha256((folder / ADAPTER_WEIGHTS).read_bytes()).hexdigest()[:16]}"
        if name not in self._adapters:
            self._adapters |= self._models()
        if name not in self._adapters:
            self._load_adapter(name, folder)
            self._adapters.add(name)
        return name

    def _load_adapter(self, name: str, folder: Path) -> None:
        body = {"lora_name": name, "lora_path": str(folder.resolve())}
        try:
            self._ask(lambda: self._client.post(ADAPTERS_PATH, cast_to=str, body=body), "load an adapter")
        except PolicyError:
            if name not in self._models():  # it is there where another shard of the phase was faster
                raise

    def _models(self) -> set[str]:
        reply = self._ask(lambda: self._client.models.with_raw_response.list().content, "list its models")
        try:
            return {model.id for model in _MODELS.decode(reply).data}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PolicyError(
                f"{self.place}: its reply is no list of models ({error}): see that the address is a model server's /v1"
            ) from None

    def _completion(self, model: str, asked: Asked, settings: SamplingSettings, ends: list[int]) -> Sequence[Written]:
        extra: dict[str, Any] = {"return_token_ids": True, "stop_token_ids": ends, "top_k": settings.top_k or -1}
        if asked.tag is not None:
            extra["response_format"] = asked.tag
        reply = self._ask(
            lambda: (
                self._client.completions.with_raw_response.create(
                    model=model,
                    prompt=list(asked.prompt),
                    n=asked.count,
                    seed=asked.seed,
                    max_tokens=settings.max_new_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    logprobs=1,
                    extra_body=extra,
                ).content
            ),
            "complete a prompt",
        )
        try:
            choices = _COMPLETION.decode(reply).choices
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # The message names the field, not what the answer says.
            raise PolicyError(
                f"{self.place}: its reply is no completion that ended by itself or at max_tokens ({error}): see that "
                "the address is a model server's /v1, and its log"
            ) from None
        return [self._written(choice) for choice in choices[: asked.count]]

    def _written(self, choice: _Choice) -> Written:
        # In characters the server may write a marker in other tokens than the policy: its ids do not count.
        ids = choice.token_ids if self.tags == "tokens" else None
        tokens = None if ids is None else tuple(ids)
        own = _whole(choice.logprobs.token_logprobs) if choice.logprobs is not None else None
        logprobs = own if own is not None and tokens is not None and len(own) == len(tokens) else None
        return Written(choice.text, choice.finish_reason == "stop", tokens, logprobs)

    def _ask(self, call: Callable[[], T], what: str) -> T:
        """Return the result of a call with the library's retries.

        Raises:
            PolicyError: if it fails; the server's own message may quote the prompt and is not repeated.
        """
        try:
            return call()
        except openai.APIStatusError as error:
            reason = f"status {error.status_code}"
            remedy = _REMEDIES.get(error.status_code, "see its log")
        except openai.APITimeoutError:
            reason = f"no answer within {self._config.timeout:g} s"
            remedy = "see that it is not overloaded, or raise rollout.engine.timeout"
        except openai.APIConnectionError:
            reason, remedy = "the connection failed", "see that it runs at this address"
        raise PolicyError(
            f"{self.place}: could not {what}: {reason}, after up to {self._config.attempts} attempts: {remedy}"
        )


_REMEDIES = {
    400: "its version may not know structural tags, token ids as prompts or these adapters: see its log",
    401: "set the key in the variable that rollout.engine.api_key_env names",
    403: "set the key in the variable that rollout.engine.api_key_env names",
    404: "it has no such model or endpoint: compare its /v1/models, and for adapters allow runtime LoRA updating",
    422: "its version may not know structural tags, token ids as prompts or these adapters: see its log",
    429: "it has no room: lower rollout.engine.concurrency",
    503: "it has no room: lower rollout.engine.concurrency",
}


def _whole(logprobs: Iterable[float | None]) -> tuple[float, ...] | None:
    known = tuple(p for p in logprobs if p is not None)
    return known or None


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is not None or parts.query or parts.fragment or not parts.hostname:
        shown = url.rpartition("@")[2]
        remedy = (
            "give a base URL such as http://host:8000/v1; a key belongs in the variable of rollout.engine.api_key_env"
        )
        raise ConfigError("rollout.engine.url", shown, remedy)
    return url.rstrip("/")


def _key(variable: str | None) -> str:
    if variable is None:
        return "none"  # the library wants a key; a server without keys ignores it
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(variable, "not set", "set this variable to the server's key, or api_key_env to null")
    return key
