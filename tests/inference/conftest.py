"""Small random policies: untrained weights sample every token, which makes them the hardest test of the constraint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inference.constraint import MarkerConstraint
from inference.models import LoadedModel
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.prompt import PromptSettings
from mechanism.types import Ad, Candidate, Context, Generation, Profile

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TITLES = ("Kestrel Shoes", "Kestrel", "Kestrel Shoes Pro", "Oak & Elm", "Café Zoë", "A1", "Nest", "東京 Tours")
TEXTS = (
    "Try @Kestrel Shoes@[A1] or @Nest@[A11]. See [A1] and (a[0], [A11]).",
    "For muddy trails, many people are happy with @Oak & Elm@[A4], or write to me@home.example.",
    "@Kestrel@[A2] @@ [@Nest@[A7]] @[A3] A1] [A1 [A12] @",
    "Café Zoë and 東京 Tours are open today, 🏃 said.",
)


def make_ad(number: int, title: str) -> Ad:
    return Ad(f"A{number}", title, f"all about {title}", title)


def make_context(titles: Iterable[str] = TITLES, query: str = "Which shoes are good?", name: str = "q") -> Context:
    """Return a context with one candidate for each title, ids A1, A2, … (so that A1 begins A10) and rising bids."""
    pairs = tuple(Candidate(make_ad(i, t), 10_000 * i) for i, t in enumerate(titles, 1))
    return Context(name, query, pairs, Profile("u1", interests=("running",)))


def byte_tokenizer(words: bool) -> Any:
    """Return a byte-level BPE tokenizer.

    Without `words` its merges cross word boundaries: its tokens contain a closing bracket with half a marker, a "["
    with half an id, and other pieces that an incomplete constraint would admit.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(SPECIAL) + 60,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return _fast(tokenizer)


def blank_tokenizer() -> Any:
    """Return a tokenizer of the SentencePiece family: blanks are letters, and every text begins with one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL],
        initial_alphabet=[chr(c) for c in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator([t.replace("@", " @ ") for t in TEXTS], trainer)
    return _fast(tokenizer)


def _fast(tokenizer: Tokenizer) -> Any:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def random_policy(tokenizer: Any, seed: int = 0, eager: float = 3.0, ending: float = 1.0) -> Policy:
    """Return a Llama of two layers with random weights.

    `eager` raises the logits of all tokens that markers consist of, `ending` that of the end token.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 3,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config).eval()
    # Random weights of the usual scale answer almost alike to every prompt; wider ones depend on it.
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.3)
    head = torch.nn.Linear(32, config.vocab_size, bias=True)
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    raised = [i for i, t in enumerate(texts) if set(t) & set("@[]") or t in {"A", "1", "A1", "2"}]
    with torch.no_grad():
        head.weight.normal_(std=0.15)
        head.bias.zero_()
        head.bias[raised] = eager
        head.bias[tokenizer.eos_token_id] = ending
    model.lm_head = head
    sampling = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=40)
    return Policy(LoadedModel(model, tokenizer, PromptSettings(instructions="brief"), sampling))


@pytest.fixture(scope="session")
def worded() -> Policy:
    """A random policy over a tokenizer that separates words, as most do."""
    return random_policy(byte_tokenizer(words=True))


@pytest.fixture(scope="session")
def fused() -> Policy:
    """A random policy over a tokenizer whose tokens cross the parts of markers."""
    return random_policy(byte_tokenizer(words=False))


@pytest.fixture(scope="session")
def blanked() -> Policy:
    """A random policy over a tokenizer that begins every text with a blank."""
    return random_policy(blank_tokenizer())


@pytest.fixture
def context() -> Context:
    return make_context()


def decided_tokens(policy: Policy, context: Context, generation: Generation) -> list[bool]:
    """Whether the model chose each token of an answer: not where the candidate trie allows one token only."""
    constraint = MarkerConstraint(policy.vocabulary, policy.vocabulary.trie([c.ad for c in context.candidates]), None)
    return [*(constraint.replay(token) for token in generation.token_ids), *([True] if generation.finished else [])]
