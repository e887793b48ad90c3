"""A model folder: the digest of its weights, and the policy loaded from it.

The digest is the same wherever the model is served: in the router's process, on Triton, and as the registry's entry
lists it; an adapter's is that of its own weights. Equal weights in another layout have another digest. Torch is
imported on loading only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mechanism.errors import InputError
from mechanism.types import Context
from mechanism.weights import ENTRY, WEIGHTS, digest_of
from serving.policies.protocol import OWN_LIMITS, AnswerLimits, Completed, PolicyEvent, TextDelta

if TYPE_CHECKING:
    from inference.policy import Policy


class ModelPolicy:
    """A language model of `inference` as a `PolicyBackend`."""

    def __init__(self, policy: Policy, digest: str) -> None:
        self.policy = policy
        self.digest = digest

    @classmethod
    def load(cls, name_or_path: str, digest: str = "") -> ModelPolicy:
        """Load a model by its name or folder; `digest` is computed from its files unless it is given.

        `checked_digest` refuses files that are not those of the registry's entry, `Policy.load` a model that cannot be
        loaded.
        """
        from inference.models import resolve
        from inference.policy import Policy
        from inference.precision import fast_dtype

        where = Path(resolve(name_or_path))
        if not digest and where.is_dir():
            digest = checked_digest(where)
        policy = Policy.load(name_or_path, fast_dtype())
        return cls(policy, digest or policy.digest)

    def stream(
        self, context: Context, seed: int, max_ads: int, limits: AnswerLimits = OWN_LIMITS
    ) -> Generator[PolicyEvent, None, None]:
        """Write one answer with constrained decoding, reproducible by its seed and its limits."""
        own = self.policy.sampling
        settings = replace(
            own,
            max_ads=max_ads if own.max_ads is None else min(max_ads, own.max_ads),
            max_new_tokens=own.max_new_tokens
            if limits.max_tokens is None
            else min(limits.max_tokens, own.max_new_tokens),
            temperature=own.temperature if limits.temperature is None else limits.temperature,
        )
        prompt_tokens = self._checked_prompt_tokens(context, settings.max_new_tokens)
        deltas = self.policy.stream(context, seed, settings)
        try:
            while True:
                yield TextDelta(next(deltas))
        except StopIteration as end:
            done = end.value
        finally:
            deltas.close()
        yield Completed(done.choices, done.logprob, len(done.token_ids), prompt_tokens, done.finished)

    def _checked_prompt_tokens(self, context: Context, max_new_tokens: int) -> int:
        """Count the prompt's tokens.

        Raises:
            InputError: if prompt and answer need more positions than the model has, past which it writes noise.
        """
        tokens = len(self.policy.prompt_ids(context))
        limit = self.policy.model.config.max_position_embeddings
        if tokens + max_new_tokens > limit:
            remedy = f"shorten them: this model reads {limit - max_new_tokens}, its offers included"
            raise InputError("messages", f"{tokens} tokens", remedy)
        return tokens


class RegistryEntry(msgspec.Struct, frozen=True):
    """The fields of `model.json` that serving reads: digests of the files beside it, and when it was registered."""

    sha256: dict[str, str]
    created: str = ""


def weights_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that hold weights, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(WEIGHTS))


def folder_digest(folder: Path) -> str:
    """Return the digest of the weights in a folder; reads every byte of them."""
    return digest_of({path.name: file_sha256(path) for path in weights_files(folder)})


def checked_digest(folder: Path) -> str:
    """Return the digest of the weights in a folder.

    Raises:
        InputError: if a registry's entry beside the weights lists other digests.
    """
    found = folder_digest(folder)
    if (folder / ENTRY).is_file() and digest_of(read_entry(folder).sha256) != found:
        raise InputError(
            str(folder), found, f"the weights are not those of {ENTRY}: restore them, or register the model"
        )
    return found


def read_entry(folder: Path) -> RegistryEntry:
    """Read the registry's entry of a model folder.

    Raises:
        InputError: if the entry is damaged.
    """
    try:
        return msgspec.json.decode((folder / ENTRY).read_bytes(), type=RegistryEntry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(str(folder / ENTRY), str(error), "the entry is damaged: register the model again") from error


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
