"""Frequency caps: how often one reader has seen a campaign and its creatives within the hours of the caps.

Readers are identified by a keyed hash of their id, never by the id. A cap is a promise to the advertiser: if a reader
cannot be counted (no consent, no id, no memory left), campaigns with caps are excluded.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from mechanism.errors import ConfigError
from mechanism.types import AdId
from serving.auction.eligibility.request import UNCOUNTED, ReachedCaps
from serving.campaigns.types import Campaign, FrequencyCap

HOUR_S = 3_600
HEADROOM = 64
"""Free places that a reader must have to be countable: more than one answer can use."""
_Item = tuple[str, AdId]
"""(campaign id, creative id), the creative "" for the campaign itself."""


class FrequencyCounter:
    """Impressions of capped campaigns by reader, in memory, at most `capacity` of them (about 100 bytes each).

    An impression is kept until the longest window of its campaign's caps ends. Each router counts the impressions that
    it is given; those served elsewhere are added with `record` as well. Times are Unix seconds. Belongs to one thread.

    Raises:
        ConfigError: if the key or the capacity is out of range.
    """

    def __init__(self, key: bytes, capacity: int = 2_000_000) -> None:
        if len(key) < 16 or len(key) > 64:
            raise ConfigError("frequency key", f"<{len(key)} bytes>", "give 16 to 64 random bytes")
        if capacity < HEADROOM:
            raise ConfigError("frequency capacity", capacity, f"give at least {HEADROOM}")
        self._key = key
        self._capacity = capacity
        self._readers: dict[bytes, dict[_Item, list[tuple[float, float]]]] = {}  # (seen at, kept until), oldest first
        self._size = 0
        self._swept = 0.0

    def __len__(self) -> int:
        return self._size

    def record(self, user_id: str, campaign: Campaign, creative_id: AdId, at: float) -> None:
        """Count one impression of a reader who has consented; campaigns without caps are ignored.

        At full capacity the impression is dropped; by then `reached_caps` reports every reader as uncountable.
        """
        for item, caps in (("", campaign.campaign_caps), (creative_id, campaign.creative_caps)):
            if caps and self._size < self._capacity:
                seen = self._readers.setdefault(self._hash(user_id), {})
                times = seen.setdefault((campaign.id, item), [])
                times.append((at, at + HOUR_S * max(cap.hours for cap in caps)))
                times.sort()  # impressions served elsewhere may arrive late
                self._size += 1

    def reached_caps(
        self, user_id: str | None, consent: bool, now: float, find: Callable[[str], Campaign | None]
    ) -> ReachedCaps:
        """Return the campaigns and creatives whose caps the reader has reached.

        `find` gives the current version of a campaign, whose caps apply. A reader without consent or id is not
        countable, and no reader is while the memory is full.
        """
        if not consent or not user_id:
            return UNCOUNTED
        self._sweep(now)
        if self._size + HEADROOM > self._capacity:
            return UNCOUNTED
        seen = self._readers.get(self._hash(user_id))
        if not seen:
            return ReachedCaps(countable=True)
        campaigns, creatives = set(), set()
        for (campaign_id, creative_id), times in seen.items():
            campaign = find(campaign_id)
            if campaign is None:
                continue
            if not creative_id and _is_reached(campaign.campaign_caps, times, now):
                campaigns.add(campaign_id)
            elif creative_id and _is_reached(campaign.creative_caps, times, now):
                creatives.add(creative_id)
        return ReachedCaps(True, frozenset(campaigns), frozenset(creatives))

    def forget(self, user_id: str) -> None:
        """Delete the impressions of a reader, as when consent is withdrawn."""
        items = self._readers.pop(self._hash(user_id), {})
        self._size -= sum(map(len, items.values()))

    def _sweep(self, now: float) -> None:
        """Delete expired impressions: every ten minutes, every ten seconds while the memory is full."""
        if now - self._swept < (600 if self._size + HEADROOM <= self._capacity else 10):
            return
        self._swept = now
        for reader, items in list(self._readers.items()):
            for item, times in list(items.items()):
                kept = [t for t in times if t[1] > now]
                self._size -= len(times) - len(kept)
                if kept:
                    items[item] = kept
                else:
                    del items[item]
            if not items:
                del self._readers[reader]

    def _hash(self, user_id: str) -> bytes:
        return blake2b(user_id.encode(), key=self._key, digest_size=16, person=b"frequency").digest()


def _is_reached(caps: tuple[FrequencyCap, ...], times: list[tuple[float, float]], now: float) -> bool:
    # A cap's window is half open: (now - hours, now].
    return any(sum(at > now - HOUR_S * cap.hours for at, _ in times) >= cap.impressions for cap in caps)
