"""How many ads a conversation may still have: a cap for all of it, and a least number of answers between two with ads.

Counted from the router's own labelled links in the earlier answers that the request repeats, so that every router
decides alike and nothing is remembered of a reader. A client that removes the links is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

CAP, SPACING = "conversation:cap", "conversation:spacing"
"""Why a conversation gets no ads in this answer."""


def ads_left(shown: Sequence[int], cap: int, between: int) -> tuple[int, str]:
    """Return the ads that the next answer may have, and the code of the rule that leaves none.

    `shown` are the ads in each earlier answer, oldest first; `between` answers without ads follow one with ads.
    """
    left = cap - sum(shown)
    if left <= 0:
        return 0, CAP
    if between and any(shown[-between:]):
        return 0, SPACING
    return left, ""
