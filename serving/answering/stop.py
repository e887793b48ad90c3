"""Stop sequences: the answer ends before the first of them that the policy writes."""

from __future__ import annotations

from collections.abc import Sequence


class StopSequences:
    """Searches the policy's text, in the pieces that it arrives in; the beginning of a sequence is held back."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequences)
        self._held = ""
        self.reached = False
        """Whether a sequence was found; nothing is returned after it."""

    def feed(self, text: str) -> str:
        """Return the text that is certainly before every sequence."""
        if not self._sequences:
            return text
        if self.reached:
            return ""
        text = self._held + text
        found = [at for at in (text.find(sequence) for sequence in self._sequences) if at >= 0]
        if found:
            self._held, self.reached = "", True
            return text[: min(found)]
        keep = max(_overlap(text, sequence) for sequence in self._sequences)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """Return what was held back, at the end of the policy's text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, sequence: str) -> int:
    """Return the length of the longest end of `text` that begins `sequence`."""
    lengths = range(min(len(text), len(sequence) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(sequence[:length])), 0)
