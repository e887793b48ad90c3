"""Earlier versions of events, which `streaming.codec` still reads and converts to the newest."""

from __future__ import annotations

from msgspec import Struct

from streaming.events import AuctionId, Count, Event, GradedAd, Judgement, Moment, Name, Seconds, Share, require_utc


class ClickedAdV1(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One shown ad of a judgement at version 1, with the click that the judge worker had joined."""

    ad_id: Name
    clicked: bool
    clicked_after_s: Seconds | None = None
    relevance: Share | None = None
    nativeness: Share | None = None

    def __post_init__(self) -> None:
        if self.clicked != (self.clicked_after_s is not None):
            raise ValueError(f"ad {self.ad_id}: clicked_after_s is there if and only if it was clicked")


class JudgementV1(Event, frozen=True, kw_only=True, omit_defaults=True, tag=1, tag_field="version"):
    """A judgement at version 1: grades and the clicks within `window_s` seconds; `revision` counts those clicks."""

    auction_id: AuctionId
    answered_at: Moment
    window_s: Seconds
    judge: Name
    judge_version: str
    revision: Count = 0
    ads: tuple[ClickedAdV1, ...] = ()
    answer_quality: Share | None = None

    def _check(self) -> None:
        require_utc("answered_at", self.answered_at)

    def upgraded(self) -> Judgement:
        """Return the grades at the newest version, without the clicks, which the topic `clicks` holds."""
        return Judgement(
            occurred_at=self.occurred_at,
            auction_id=self.auction_id,
            answered_at=self.answered_at,
            judge=self.judge,
            judge_version=self.judge_version,
            ads=tuple(GradedAd(ad_id=ad.ad_id, relevance=ad.relevance, nativeness=ad.nativeness) for ad in self.ads),
            answer_quality=self.answer_quality,
        )
