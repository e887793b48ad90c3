"""The tokenizers of Qwen3 and Llama 3 without their models, as `inference.constraint` reads a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import quicktok


class KnownTokenizer:
    """A byte-level tokenizer by name: `qwen3` or `llama3`. Its special tokens are those of the released model."""

    def __init__(self, name: str) -> None:
        self._encoding: Any = quicktok.get_encoding(name)
        known = self._encoding.special_tokens_set
        self.special: dict[int, str] = {int(self._encoding.encode_with_special(text)[0]): text for text in known}
        self.size = 1 + max(int(self._encoding.max_token_value), *self.special)
        self.pieces = [self._piece(i) for i in range(self.size)]
        """The bytes of every token, in order of their ids; empty for ids without a token."""

    @property
    def all_special_ids(self) -> Sequence[int]:
        return sorted(self.special)

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        return {i: SimpleNamespace(special=True) for i in self.special}

    def _piece(self, token: int) -> bytes:
        if token in self.special:
            return self.special[token].encode()
        try:
            piece: bytes = self._encoding.decode_single_token_bytes(token)
        except KeyError:
            return b""
        return piece

    def get_vocab(self) -> Mapping[str, int]:
        return {f"<{i}>": i for i in range(self.size)}

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]:
        assert not add_special_tokens
        return [int(i) for i in self._encoding.encode(text)]

    def decode(self, token_ids: list[int], *, clean_up_tokenization_spaces: bool) -> str:
        return b"".join(self.pieces[i] for i in token_ids).decode(errors="replace")

    def batch_decode(self, sequences: list[list[int]], *, clean_up_tokenization_spaces: bool) -> Sequence[str]:
        return [self.decode(ids, clean_up_tokenization_spaces=False) for ids in sequences]
