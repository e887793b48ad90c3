"""A language model as an auction policy pi_theta(y | x, h, a, b): contexts in, answers with insertions out."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from inference.adapters import has_adapter, save_adapter
from inference.constraint import MarkerVocabulary
from inference.models import LoadedModel, PolicySettings, load_model, weights_digest, write_policy_settings
from inference.quiet import quiet_loading
from inference.sampling import Row, SamplingSettings, decode
from mechanism.errors import PolicyError
from mechanism.markers import parse
from mechanism.prompt import render_messages
from mechanism.types import Context, Generation

ROW_COLUMNS = 60_000
"""Cached columns (rows x tokens) of one decoding batch: bounds memory for prompts of any length."""


@dataclass(frozen=True, slots=True)
class AnsweredBatch:
    """The answers of one decoding batch, the places of its contexts in the call, and the random state after it."""

    places: tuple[int, ...]
    answers: tuple[tuple[Generation, ...], ...]
    random_state: bytes


class Policy:
    """A loaded model with its prompt and sampling settings. Not thread-safe."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.prompt_settings = loaded.prompt
        self.sampling = loaded.sampling
        self.opener = loaded.opener

    @classmethod
    def load(cls, name_or_path: str, dtype: torch.dtype = torch.float32) -> Policy:
        """Load a policy by name (`tiny`, `smollm2-135m`), folder or Hugging Face id."""
        return cls(load_model(name_or_path, dtype))

    @property
    def settings(self) -> PolicySettings:
        """What a checkpoint of this policy says of itself."""
        return PolicySettings(self.prompt_settings, self.sampling, self.opener)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the weights."""
        return weights_digest(self.model)

    @cached_property
    def vocabulary(self) -> MarkerVocabulary:
        """The meaning of this tokenizer's tokens for markers."""
        return MarkerVocabulary(self.tokenizer, self.model.config.vocab_size, self.end_tokens, self.opener)

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end an answer.

        Raises:
            PolicyError: if the model has none.
        """
        configured = self.model.generation_config.eos_token_id
        ends = [self.tokenizer.eos_token_id]
        ends += configured if isinstance(configured, list) else [configured]
        known = tuple(dict.fromkeys(int(e) for e in ends if e is not None))
        if not known:
            raise PolicyError("the model has no end token: set eos_token_id in its configuration")
        return known

    def prompt_ids(self, context: Context) -> list[int]:
        """Return the token ids of the prompt, up to the beginning of the answer."""
        messages = render_messages(context, self.prompt_settings)
        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        return [int(i) for i in ids]

    def generate(
        self,
        contexts: Sequence[Context],
        samples: int,
        seed: int,
        settings: SamplingSettings | None = None,
        openings: Sequence[Generation] | None = None,
    ) -> list[list[Generation]]:
        """Return `samples` answers to each context, in the order of the contexts.

        With `openings`, the answers to a context continue the one at its position; a Generation is then the whole
        answer, with the log-probability of both parts.

        Equal arguments give equal answers. Other contexts in the call, or another number of samples, change the random
        numbers and therefore the answers, but not their distribution.
        """
        answers: list[list[Generation]] = [[] for _ in contexts]
        for batch in self.generate_batches(contexts, samples, seed, settings, openings):
            for place, own in zip(batch.places, batch.answers, strict=True):
                answers[place] = list(own)
        return answers

    def generate_batches(
        self,
        contexts: Sequence[Context],
        samples: int,
        seed: int,
        settings: SamplingSettings | None = None,
        openings: Sequence[Generation] | None = None,
        done: Sequence[AnsweredBatch] = (),
    ) -> Iterator[AnsweredBatch]:
        """Yield the answers of `generate` batch by batch, as they are decoded.

        `done` are the first batches of an interrupted call with equal arguments: the later ones follow, and are those
        that it would have yielded.
        """
        settings = settings or self.sampling
        generator = torch.Generator().manual_seed(seed)
        if done:
            generator.set_state(torch.frombuffer(bytearray(done[-1].random_state), dtype=torch.uint8))
        prompts = [self.prompt_ids(c) for c in contexts]
        order = sorted(range(len(contexts)), key=lambda i: len(prompts[i]))  # of like length: less padding
        for batch in self._batches(order, prompts, samples, settings)[len(done) :]:
            steps = decode(
                self.model,
                self.vocabulary,
                [prompts[i] for i in batch],
                [self.vocabulary.trie([c.ad for c in contexts[i].candidates]) for i in batch],
                samples,
                settings,
                generator,
                None if openings is None else [openings[i] for i in batch],
            )
            rows = _drain(steps)
            answers = [
                tuple(self.generation(contexts[i], row) for row in rows[k * samples : (k + 1) * samples])
                for k, i in enumerate(batch)
            ]
            yield AnsweredBatch(tuple(batch), tuple(answers), generator.get_state().numpy().tobytes())

    def stream(
        self, context: Context, seed: int, settings: SamplingSettings | None = None
    ) -> Generator[str, None, Generation]:
        """Yield the raw text of one answer as it is written, markers included; return its Generation."""
        settings = settings or self.sampling
        trie = self.vocabulary.trie([c.ad for c in context.candidates])
        steps = decode(
            self.model,
            self.vocabulary,
            [self.prompt_ids(context)],
            [trie],
            1,
            settings,
            torch.Generator().manual_seed(seed),
        )
        tokens: list[int] = []
        shown = ""
        while True:
            try:
                _, token = next(steps)
            except StopIteration as end:
                rows: list[Row] = end.value
                break
            if token in self.end_tokens:
                continue
            tokens.append(token)
            text = self.vocabulary.decode(tokens)
            # An incomplete multi-byte character decodes to U+FFFD: wait for its other bytes.
            if not text.endswith("\ufffd") and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
        generation = self.generation(context, rows[0])
        if len(generation.answer.raw) > len(shown):
            yield generation.answer.raw[len(shown) :]
        return generation

    def text_ids(self, text: str) -> list[int]:
        """Return the token ids of a piece of an answer."""
        return self.vocabulary.encode(text)

    def answer_ids(self, generation: Generation) -> list[int]:
        """Return the answer's tokens for training: with the end token if the model ended the answer itself."""
        return [*generation.token_ids, *([self.end_tokens[0]] if generation.finished else [])]

    def save(self, folder: Path) -> None:
        """Write the model in Hugging Face layout, with `policy.json`; of a model with an adapter, the adapter alone."""
        if has_adapter(self.model):
            save_adapter(self.model, folder)
        else:
            with quiet_loading():
                self.model.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
        write_policy_settings(folder, self.settings)

    def generation(self, context: Context, row: Row) -> Generation:
        """Return the answer of a decoded row, parsed.

        Raises:
            PolicyError: if the log-probability is not finite.
        """
        raw = self.vocabulary.decode(row.tokens)
        answer = parse(raw, [c.ad for c in context.candidates])
        if not math.isfinite(row.logprob):
            raise PolicyError(
                f"the model's probabilities are not finite (context {context.id}): its weights are damaged"
            )
        return Generation(answer, tuple(row.tokens), row.logprob, tuple(row.constraint.choices), row.finished)

    def _batches(
        self, order: list[int], prompts: list[list[int]], samples: int, settings: SamplingSettings
    ) -> list[list[int]]:
        batches: list[list[int]] = []
        for i in order:
            columns = (len(prompts[i]) + settings.max_new_tokens) * samples
            if batches and (len(batches[-1]) + 1) * columns <= ROW_COLUMNS:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches


def _drain(steps: Generator[tuple[int, int], None, list[Row]]) -> list[Row]:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            rows: list[Row] = end.value
            return rows
