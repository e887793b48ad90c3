"""The marker constraint for an engine that samples by itself: which tokens it may choose, and a record of its choices.

`inference.sampling` masks, samples and records in one loop. With vLLM the three are separate: `Mask` runs in the
model's process and masks logits before temperature, top-k and top-p; `Record` runs beside the request and computes
propensities and log-probability from the log-probabilities that the engine reports after sampling. Free of vLLM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mechanism.errors import PolicyError
from mechanism.types import Context, MarkerChoice
from serving.policies.model import folder_digest
from serving.policies.protocol import AdapterAbsent
from serving.policies.triton.wire import ADAPTERS

if TYPE_CHECKING:
    from inference.constraint import MarkerVocabulary
    from inference.policy import Policy


def policy_without_weights(folder: Path) -> Policy:
    """Load tokenizer, prompt, sampling settings and marker vocabulary of a model folder, without its weights."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from inference.models import LoadedModel, read_policy_settings
    from inference.policy import Policy
    from inference.quiet import quiet_loading

    with quiet_loading():
        config: Any = AutoConfig.from_pretrained(folder)
        has_own = (folder / "generation_config.json").is_file()
        ends: Any = GenerationConfig.from_pretrained(folder) if has_own else GenerationConfig.from_model_config(config)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    own = read_policy_settings(folder)
    model = SimpleNamespace(config=config, generation_config=ends)
    return Policy(LoadedModel(model, tokenizer, own.prompt, own.sampling, own.opener))


class UnloadedPolicies:
    """Policies of a model and of the adapters in the folder beside it, without weights."""

    def __init__(self, weights: Path) -> None:
        self._own = policy_without_weights(weights)
        self._folder = weights.parent / ADAPTERS
        self._adapters: dict[str, Policy] = {}

    def place(self, adapter: str) -> Path:
        """Return the folder of an adapter.

        Raises:
            AdapterAbsent: if it is not there.
        """
        folder = self._folder / adapter[:12]
        if not folder.is_dir():
            raise AdapterAbsent(f"adapter {adapter[:12]} is not on this server: build it into the repository")
        return folder

    def of(self, adapter: str) -> Policy:
        """Return the policy of an adapter, with its own prompt and sampling settings; the model's for "".

        Raises:
            PolicyError: if the adapter's weights are not those of the digest.
        """
        if not adapter:
            return self._own
        if adapter not in self._adapters:
            from inference.models import LoadedModel, read_policy_settings
            from inference.policy import Policy

            folder, own = self.place(adapter), self._own
            if (found := folder_digest(folder)) != adapter:
                raise PolicyError(f"adapter {adapter[:12]} has weights {found[:12]} on this server: build it again")
            settings = read_policy_settings(folder)
            loaded = LoadedModel(own.model, own.tokenizer, settings.prompt, settings.sampling, settings.opener)
            self._adapters[adapter] = Policy(loaded)
        return self._adapters[adapter]


class Mask:
    """One answer's logits processor, called with the answer's tokens so far and the next token's logits (V,)."""

    def __init__(self, vocabulary: MarkerVocabulary, context: Context, max_ads: int, max_new_tokens: int) -> None:
        from inference.constraint import MarkerConstraint

        self._vocabulary = vocabulary
        self._constraint = MarkerConstraint(vocabulary, vocabulary.trie([c.ad for c in context.candidates]), max_ads)
        self._seen = 0
        self._max_new_tokens = max_new_tokens

    def __call__(self, tokens: Sequence[int], logits_V: Any) -> Any:
        """Return the logits with the tokens masked that the constraint forbids here."""
        from inference.sampling import forbid

        for token in tokens[self._seen :]:
            self._constraint.advance(token)
        self._seen = len(tokens)
        if not self._constraint.inside:
            forbid(logits_V[None], [self._constraint], self._vocabulary, [self._max_new_tokens - len(tokens)])
            return logits_V
        allowed = self._constraint.allowed()
        kept = logits_V[allowed].clone()
        logits_V.fill_(-math.inf)
        logits_V[allowed] = kept
        return logits_V


class Record:
    """Record of one answer, token by token as the engine reports them."""

    def __init__(self, vocabulary: MarkerVocabulary, context: Context, max_ads: int) -> None:
        from inference.constraint import MarkerConstraint

        self._vocabulary = vocabulary
        self._constraint = MarkerConstraint(vocabulary, vocabulary.trie([c.ad for c in context.candidates]), max_ads)
        self._shown = 0
        self.tokens: list[int] = []
        self.logprob = 0.0
        self.finished = False

    @property
    def choices(self) -> tuple[MarkerChoice, ...]:
        """The distribution at every marker so far."""
        return tuple(self._constraint.choices)

    def take(self, token: int, logprobs: Mapping[int, float]) -> None:
        """Add the next token, with log-probabilities (nats) by token: its own and those of the likeliest others.

        Raises:
            PolicyError: if the token breaks the constraint, so that the engine does not use `Mask`.
        """
        if token in self._vocabulary.end_tokens and not self._constraint.inside:
            self.logprob += logprobs[token]
            self.finished = True
            return
        if self._constraint.inside:
            allowed = self._constraint.allowed()
            if token not in allowed:
                raise PolicyError("the engine left the marker constraint: its logits processor is not in use")
            self._constraint.advance(token, {t: math.exp(logprobs.get(t, -math.inf)) for t in allowed})
        else:
            self._constraint.advance(token)
        self.logprob += logprobs[token]
        self.tokens.append(token)

    def text(self, last: bool = False) -> str:
        """Return the raw text that is new since the last call; an incomplete character waits for its other bytes."""
        whole = self._vocabulary.decode(self.tokens)
        if whole.endswith("\ufffd") and not last:
            return ""
        new = whole[self._shown :]
        self._shown = len(whole)
        return new
