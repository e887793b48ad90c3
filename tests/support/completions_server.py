"""A model behind `/v1/completions` that decodes by structural tags with xgrammar, as vLLM does."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import xgrammar

from inference.policy import Policy
from inference.sampling import SamplingSettings, column_probabilities
from tests.support.openai_server import Reply, Request


@dataclass(frozen=True)
class Sample:
    """One answer: its tokens with the end token, their log-probabilities before temperature and tag, and its end."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str


class TaggedModel:
    """Samples from a policy's model, and knows nothing of markers but what a request's tag says."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        size, ends = policy.vocabulary.size, list(policy.end_tokens)
        info = xgrammar.TokenizerInfo.from_huggingface(policy.tokenizer, vocab_size=size, stop_token_ids=ends)
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)

    @torch.inference_mode()
    def sample(
        self, prompt: Sequence[int], tag: Mapping[str, Any] | None, settings: SamplingSettings, seed: int
    ) -> Sample:
        generator = torch.Generator().manual_seed(seed)
        matcher = None
        if tag is not None:
            matcher = xgrammar.GrammarMatcher(self._compiler.compile_structural_tag(json.dumps(tag)))
        mask = xgrammar.allocate_token_bitmask(1, self.policy.vocabulary.size)
        tokens: list[int] = []
        logprobs: list[float] = []
        past, new = None, list(prompt)
        while len(tokens) < settings.max_new_tokens:
            out: Any = self.policy.model(input_ids=torch.tensor([new]), past_key_values=past, use_cache=True)
            past, logits = out.past_key_values, out.logits[:, -1].float()
            raw = logits.log_softmax(-1)[0]
            if matcher is not None:
                matcher.fill_next_token_bitmask(mask)
                xgrammar.apply_token_bitmask_inplace(logits, mask)
            probabilities = column_probabilities(logits, settings)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
            new = [token]
            tokens.append(token)
            logprobs.append(float(raw[token]))
            if token in self.policy.end_tokens:
                return Sample(tuple(tokens), tuple(logprobs), "stop")
            if matcher is not None:
                assert matcher.accept_token(token)
        return Sample(tuple(tokens), tuple(logprobs), "length")

    def text(self, sample: Sample) -> str:
        """Return the answer as the model wrote it, in its own opener."""
        kept = [i for i in sample.tokens if i not in self.policy.end_tokens]
        return str(self.policy.tokenizer.decode(kept, clean_up_tokenization_spaces=False))


@dataclass
class CompletionsServer:
    """Answers requests for `openai_server.serving`.

    `tagged`: it heeds `response_format`. `reports`: it returns token ids and log-probabilities. `most` answers come in
    one reply.
    """

    model: TaggedModel
    tagged: bool = True
    reports: bool = True
    most: int = 100
    models: list[str] = field(default_factory=lambda: ["m"])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Reply:
        if request.path.endswith("/models"):
            return Reply(body={"object": "list", "data": [{"id": m, "object": "model"} for m in self.models]})
        if request.path.endswith("/load_lora_adapter"):
            self.models.append(request.body["lora_name"])
            return Reply(body="Success: LoRA adapter added.")
        body = request.body
        if body["model"] not in self.models:
            return Reply(status=404, body={"error": {"message": "a private prompt"}})
        settings = SamplingSettings(
            body["temperature"], body["top_p"], max(0, body["top_k"]), body["max_tokens"], constrained=False
        )
        tag = body.get("response_format") if self.tagged else None
        with self.lock:
            drawn = [
                self.model.sample(body["prompt"], tag, settings, body["seed"] + i)
                for i in range(min(body["n"], self.most))
            ]
        choices = [
            {"index": i, "text": self.model.text(one), "finish_reason": one.reason, **self._reported(one)}
            for i, one in enumerate(drawn)
        ]
        return Reply(body={"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": choices})

    def _reported(self, one: Sample) -> dict[str, Any]:
        if not self.reports:
            return {}
        return {"token_ids": one.tokens, "logprobs": {"token_logprobs": one.logprobs}}
