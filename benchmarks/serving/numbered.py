"""The numbered text of the mock upstream, and how a reader finds out what of it is missing.

Kept apart so that writer and checker cannot disagree.
"""

from __future__ import annotations

import re

DELTAS = 64
"""Deltas of one stream."""
FIRST = b"w00 "
"""What the first delta of a stream looks like on the wire."""
_NUMBER = re.compile(rb"w(\d\d) ")


def numbered(number: int) -> str:
    """The text of one delta."""
    return f"w{number:02d} "


def missing(raw: bytes) -> int:
    """How many of a stream's deltas did not arrive in their order: lost ones, and ones out of place."""
    expected = 0
    for found in _NUMBER.finditer(raw):
        expected += int(found[1]) == expected
    return DELTAS - expected
