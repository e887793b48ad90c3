"""The stream of `/v1/chat/completions` as its bytes arrive: server-sent events cut, decoded and told apart.

Pure and incremental: no line is looked at twice, and of a frame only what an answer needs is decoded. Sending
the request and what follows from an error are left to `serving.policies.openai.exchange`.
"""

from __future__ import annotations

import msgspec

from mechanism.errors import PolicyError

LONGEST_LINE = 1_000_000
"""Bytes that a frame may have; past them the other side is not writing server-sent events."""


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Frame(msgspec.Struct):
    # A tuple of one length would refuse the frame without choices that tells the usage.
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Frame)


class FrameReader:
    """One answer's frames. `deltas` counts those with text; `prompt_tokens` and `tokens` are 0 until the server tells
    them; `finish_reason` is "" and `done` False until it says so."""

    def __init__(self) -> None:
        self.deltas = 0
        self.prompt_tokens = 0
        self.tokens = 0
        self.finish_reason = ""
        self.done = False
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The texts of the deltas that these bytes complete. Raises PolicyError for a frame that cannot be read, and
        for one that tells of an error; what it says is not repeated, since it may quote the question."""
        if self._rest:
            data = self._rest + data
        *lines, self._rest = data.split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise PolicyError(f"the upstream sent a line of more than {LONGEST_LINE} bytes: is it a model server?")
        texts: list[str] = []
        for line in lines:
            if line.startswith(b"data:") and not self.done:
                self._frame(line[5:], texts)
        return texts

    def _frame(self, body: bytes, texts: list[str]) -> None:
        try:
            frame = _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.done = body.strip() == b"[DONE]"
            if self.done:
                return
            raise PolicyError("the upstream sent a frame that is not of the chat completion format") from None
        if frame.error:
            raise PolicyError("the upstream broke off its answer with an error: see its log")
        if frame.usage is not None:
            self.prompt_tokens, self.tokens = frame.usage.prompt_tokens, frame.usage.completion_tokens
        for choice in frame.choices:
            if choice.delta.content:
                self.deltas += 1
                texts.append(choice.delta.content)
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason
