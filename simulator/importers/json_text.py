"""A whole JSON document with the lines of its parts: arrays of rows as public repositories hold them."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from mechanism.errors import InputError
from simulator.importers.rows import read_lines

_BLANK = re.compile(r"[ \t\n]*")
_DECODER = json.JSONDecoder()


class JsonText:
    """The text of a JSON file, checked whole, and its elements by position; bytes that are not UTF-8 are surrogates."""

    def __init__(self, path: Path) -> None:
        self._text = "\n".join(read_lines(path))
        try:
            json.loads(self._text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}", error.msg, "correct the JSON; no row of it is read") from error
        except (ValueError, RecursionError) as error:
            raise InputError(str(path), type(error).__name__, "write a JSON document of rows") from error
        self._line_ends = [m.start() for m in re.finditer("\n", self._text)]

    @property
    def start(self) -> int:
        """The position of the document's value."""
        return self._skip(0)

    def line(self, at: int) -> int:
        """Return the line (from 1) of a position."""
        return bisect_right(self._line_ends, at - 1) + 1

    def kind(self, at: int) -> str:
        """Return the first character of the value at a position: "[" of an array, "{" of an object."""
        return self._text[at]

    def elements(self, at: int) -> Iterator[tuple[int, object]]:
        """Yield position and value of each element of the array at `at`."""
        at = self._skip(at + 1)
        while self._text[at] != "]":
            value, end = _DECODER.raw_decode(self._text, at)
            yield at, value
            at = self._next(end)

    def members(self, at: int) -> Iterator[tuple[str, int, object]]:
        """Yield key, position of the value and value of each member of the object at `at`; a key may come twice."""
        at = self._skip(at + 1)
        while self._text[at] != "}":
            key, end = _DECODER.raw_decode(self._text, at)
            at = self._skip(self._skip(end) + 1)
            value, end = _DECODER.raw_decode(self._text, at)
            yield key, at, value
            at = self._next(end)

    def _skip(self, at: int) -> int:
        blank = _BLANK.match(self._text, at)
        assert blank is not None
        return blank.end()

    def _next(self, end: int) -> int:
        at = self._skip(end)
        return self._skip(at + 1) if self._text[at] == "," else at
