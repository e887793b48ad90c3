"""The stream of `/v1/chat/completions` as its bytes arrive: server-sent events split and decoded.

Pure and incremental: each line is parsed once, and only the fields that an answer needs are decoded. Requests and
connections are `serving.policies.openai.exchange`'s.
"""

from __future__ import annotations

import msgspec

from mechanism.errors import PolicyError

MAX_LINE_BYTES = 1_000_000
"""Largest line in bytes; a longer one is not a server-sent event."""


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Frame(msgspec.Struct):
    # A tuple of length one would refuse the frame with the usage, which has no choices.
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Frame)


class FrameReader:
    """One answer's frames.

    `deltas` counts the frames with text. `prompt_tokens` and `tokens` are 0 until the server sends its usage,
    `finish_reason` is empty and `done` False until the answer ends.
    """

    def __init__(self) -> None:
        self.deltas = 0
        self.prompt_tokens = 0
        self.tokens = 0
        self.finish_reason = ""
        self.done = False
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the texts of the deltas that these bytes complete.

        Raises:
            PolicyError: if a frame cannot be read or carries an error, whose text may quote the question and is not
                repeated.
        """
        if self._rest:
            data = self._rest + data
        *lines, self._rest = data.split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise PolicyError(f"the upstream sent a line of more than {MAX_LINE_BYTES} bytes: is it a model server?")
        texts: list[str] = []
        for line in lines:
            if line.startswith(b"data:") and not self.done:
                self._read_frame(line[5:], texts)
        return texts

    def _read_frame(self, body: bytes, texts: list[str]) -> None:
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
