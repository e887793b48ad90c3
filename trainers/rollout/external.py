"""Answers of the policy from an engine outside of this project: asked for, checked, and drawn again where needed.

The engine decodes by a structural tag in the policy's tokens, so that nearly all its answers are answers of the policy.
The few that the policy cannot write (cut off within a marker at the limit of tokens, an ad shown twice where the tag
cannot bar it, a token that rounding puts beyond the edge of a truncation) are asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Protocol

import structlog

from inference.policy import AnsweredBatch, Policy
from inference.sampling import SamplingSettings
from mechanism.errors import ConfigError, PolicyError
from mechanism.structural_tags import text_tag, token_tag
from mechanism.types import Context, Generation
from trainers.rollout.engine import Version
from trainers.rollout.written import Written, disagreement, read_answers

log = structlog.get_logger(__name__)

CONTEXTS = 256
"""Contexts that are asked about at once: their answers are lost together where a run is killed."""
ROUNDS = 4
"""Times that a context is asked about before its missing answers are an error."""
COMPARED = 8
"""Answers of a call whose log-probabilities are compared with the engine's."""
MOST_DISAGREEMENT = 0.25
"""Nats a token between the engine's log-probabilities and the policy's: rounding stays below, other weights do not."""
SEED_BITS = 31
"""Some engines keep a seed in 32 bits, signed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an engine is asked for: `count` answers to a prompt (token ids), decoded by a structural tag."""

    prompt: tuple[int, ...]
    tag: Mapping[str, Any] | None
    count: int
    seed: int


class Writer(Protocol):
    """An engine that writes answers. `place` names it in errors, `tags` is the form of tags that it knows."""

    @property
    def place(self) -> str: ...

    @property
    def tags(self) -> Literal["tokens", "text"]: ...

    def write(
        self, version: Version, asked: Sequence[Asked], settings: SamplingSettings
    ) -> Sequence[Sequence[Written]]:
        """Return the answers to each request, `count` or fewer.

        Raises:
            PolicyError: if the engine fails.
            ConfigError: if it cannot run this version.
        """
        ...


class ExternalEngine:
    """A `RolloutEngine` over a writer."""

    name = "external"

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._compared: str | None = None

    def generate_batches(
        self,
        version: Version,
        contexts: Sequence[Context],
        samples: int,
        seed: int,
        settings: SamplingSettings,
        *,
        done: Sequence[AnsweredBatch] = (),
    ) -> Iterator[AnsweredBatch]:
        """As `RolloutEngine.generate_batches`. A seed gives the same answers only where the engine does."""
        for first in range(sum(len(batch.places) for batch in done), len(contexts), CONTEXTS):
            places = range(first, min(first + CONTEXTS, len(contexts)))
            answers = self._answers(version, [contexts[i] for i in places], samples, seed + first, settings)
            yield AnsweredBatch(tuple(places), tuple(map(tuple, answers)), b"")

    def _answers(
        self,
        version: Version,
        contexts: Sequence[Context],
        samples: int,
        seed: int,
        settings: SamplingSettings,
    ) -> list[list[Generation]]:
        """Return the answers to some contexts, asked about at once.

        Raises:
            ConfigError: if the settings ask for what no structural tag expresses.
            PolicyError: if too few of the engine's answers are answers of this policy.
        """
        policy = version.policy
        if settings.must_show or not settings.constrained:
            remedy = "this engine samples constrained answers with any number of ads: use rollout.engine transformers"
            raise ConfigError("sampling.must_show, sampling.constrained", settings, remedy)
        answers: list[list[Generation]] = [[] for _ in contexts]
        drawn = 0
        for attempt in range(ROUNDS):
            open_rows = [i for i, own in enumerate(answers) if len(own) < samples]
            if not open_rows:
                break
            asked = [
                Asked(
                    tuple(policy.prompt_ids(contexts[i])),
                    self._tag(policy, contexts[i], settings),
                    samples - len(answers[i]),
                    request_seed(seed, attempt, i),
                )
                for i in open_rows
            ]
            found = self._writer.write(version, asked, settings)
            rows = [(i, one) for i, own in zip(open_rows, found, strict=True) for one in own]
            self._check_tokens(policy, [one for _, one in rows])
            drawn += len(rows)
            self._compare(version, settings, [(contexts[i], one) for i, one in rows])
            read = read_answers(policy, settings, [contexts[i] for i, _ in rows], [one for _, one in rows])
            for (i, _), answer in zip(rows, read, strict=True):
                if answer is not None and len(answers[i]) < samples:
                    answers[i].append(answer)
        kept = sum(map(len, answers))
        log.info("rollout.drawn", engine=self._writer.place, drawn=drawn, kept=kept)
        if kept < samples * len(contexts):
            raise PolicyError(
                f"{self._writer.place}: {kept} of {drawn} answers are answers of this policy, and "
                f"{samples * len(contexts)} are needed: it must decode by structural tags (vLLM, SGLang with xgrammar) "
                "and serve this policy's weights and tokenizer"
            )
        return answers

    def _tag(self, policy: Policy, context: Context, settings: SamplingSettings) -> Mapping[str, Any] | None:
        ads, vocabulary = [c.ad for c in context.candidates], policy.vocabulary
        if self._writer.tags == "text":
            return text_tag(ads, vocabulary.opener)
        return token_tag(vocabulary.rules([ad.id for ad in ads]), vocabulary.trie(ads), settings.max_ads)

    def _check_tokens(self, policy: Policy, written: Sequence[Written]) -> None:
        """Refuse ids that the policy's model has no logits for.

        Raises:
            PolicyError: if there are any.
        """
        foreign = {i for one in written for i in one.tokens or () if not 0 <= i < policy.vocabulary.size}
        if foreign:
            raise PolicyError(
                f"{self._writer.place}: {min(foreign)} is no token of this policy, which has "
                f"{policy.vocabulary.size}: it serves a model with another tokenizer"
            )

    def _compare(self, version: Version, settings: SamplingSettings, rows: Sequence[tuple[Context, Written]]) -> None:
        """Compare log-probabilities once for each version.

        Raises:
            PolicyError: if they show that the engine runs other weights.
        """
        some = rows[:COMPARED]
        if self._compared == version.source or not some:
            return
        gap = disagreement(version.policy, settings, [c for c, _ in some], [one for _, one in some])
        self._compared = version.source
        log.info("rollout.compared", engine=self._writer.place, nats_a_token=gap)
        if gap is not None and gap > MOST_DISAGREEMENT:
            raise PolicyError(
                f"{self._writer.place}: its log-probabilities are {gap:.2f} nats a token from this policy's, where "
                f"rounding explains {MOST_DISAGREEMENT}: it serves other weights, or another chat template"
            )


def request_seed(seed: int, attempt: int, row: int) -> int:
    """Return the seed of one request.

    Engines count up from it over a request's answers, so seeds that lie side by side would repeat answers.
    """
    return Random(f"{seed} {attempt} {row}").getrandbits(SEED_BITS)
