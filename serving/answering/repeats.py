"""Repeated ads fade: an ad that the conversation has shown, and the reader has not clicked, counts less the next time.

The bid that the policy sees is bid x ad load x fade^n, where n are the ad's links in earlier answers of the
conversation that were not clicked. What a click costs does not change. Earlier links are read from their tokens in the
request; nothing is remembered of a reader. Clicks are those that this router saw, the newest ones.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

from mechanism.types import AdId
from serving.clicks.tokens import TokenError, TokenSigner

MOST_CLICKS = 100_000
"""Clicks that are remembered, by the id that they are charged under."""


class RecentClicks:
    """The ids of the newest clicks of one router. Used on the event loop only."""

    def __init__(self, size: int = MOST_CLICKS) -> None:
        self._size = size
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, click_id: str) -> None:
        """Remember a click."""
        self._ids[click_id] = None
        self._ids.move_to_end(click_id)
        while len(self._ids) > self._size:
            self._ids.popitem(last=False)

    def __contains__(self, click_id: str) -> bool:
        return click_id in self._ids


def fades(tokens: Iterable[str], signer: TokenSigner, clicks: RecentClicks, fade: float) -> Mapping[AdId, float]:
    """Return the factor on the shown bid of each ad that earlier answers of a conversation showed without a click.

    `tokens` are those of the links in these answers; one that was not made here is ignored. A `fade` of 1 changes
    nothing.
    """
    if fade == 1:
        return {}
    shown: Counter[AdId] = Counter()
    for token in tokens:
        try:
            claims = signer.read(token, 0.0)  # a time at which no token has expired
        except TokenError:
            continue
        if claims.id not in clicks:
            shown[claims.ad_id] += 1
    return {ad_id: fade**count for ad_id, count in shown.items()}
