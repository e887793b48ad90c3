"""Whether an answer reached its reader: an ad is shown, and an impression charged, when the socket has taken its bytes.

The HTTP side reports what it sent; `serving.router` waits for the end of both the writing and the sending before it
finalises an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from mechanism.types import AdId


class Delivery:
    """The delivery of one answer. Used on one event loop.

    `sent` ads are confirmed by the next write: it begins when the socket has taken everything before it. An answer that
    is `kept` is sent again to a client that asks again.
    """

    def __init__(self) -> None:
        self.kept = False
        self.gone = False
        self.complete = False
        self._sent: set[AdId] = set()
        self._confirmed: set[AdId] = set()
        self._ended = asyncio.Event()

    @property
    def ads(self) -> frozenset[AdId]:
        """The ads that reached the reader."""
        return frozenset(self._confirmed)

    def sent(self, ads: Iterable[AdId]) -> None:
        """Report ads that were handed to the server, after all earlier ones were taken by the socket."""
        if not self.gone:
            self._confirmed |= self._sent
            self._sent = set(ads)

    def drained(self) -> None:
        """Report that the socket has taken the whole answer, unless the client has gone."""
        self.sent(())
        self.complete = not self.gone

    def end(self) -> None:
        """Report that nothing more will be sent."""
        self._ended.set()

    async def wait(self, within_s: float) -> None:
        """Wait for the end, for `within_s` seconds at most."""
        try:
            await asyncio.wait_for(self._ended.wait(), within_s)
        except TimeoutError:
            return
