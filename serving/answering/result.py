"""The records between the steps of one answer: the request that starts it, and the result that it ends with.

`serving.answering.answer` turns the one into the other; `serving.answering.finalise` records the result and
`serving.http.chat` sends it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from mechanism.types import AdId, Answer, Micros
from serving.answering.auction_records import AnswerOutcome, EvaluationSummary, new_auction_id
from serving.answering.conversation import ads_left
from serving.answering.delivery import Delivery
from serving.answering.question import AdsFields, Question
from serving.answering.rendering import SponsoredLink
from serving.auction.offers import Offer
from serving.auction.separation import Displaced
from serving.bid_scale import BidScale
from serving.policies.protocol import AnswerLimits, Completed
from serving.settings import ServeSettings


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """A checked question with its identity and its limits.

    `owner` is the id of the API key, empty without one. `base_url` begins the click links. `arrived` is the time of the
    request on the event loop's clock, `received_at` in UTC. `withheld` is the code of a limit of the conversation that
    leaves no ads. `ad_load` is the factor on the bids that the policy sees, `fades` a further one by ad
    (`serving.answering.repeats`), `bid_scale` the scale of prompts that they are put on.
    """

    question: Question
    owner: str
    base_url: str
    arrived: float
    received_at: datetime
    auction_id: str
    seed: int
    max_ads: int
    withheld: str
    ad_load: float
    fades: Mapping[AdId, float]
    bid_scale: BidScale

    @classmethod
    def create(
        cls,
        question: Question,
        *,
        owner: str,
        base_url: str,
        arrived: float,
        settings: ServeSettings,
        ad_load: float,
        fades: Mapping[AdId, float],
    ) -> AnswerRequest:
        """Give the question an auction id, a seed, and the number of links that it may have.

        A request lowers the router's limits and never raises them.
        """
        ads, seed = question.request.ads, question.request.seed
        wanted = settings.max_ads if ads.max_ads is None else ads.max_ads
        cap = settings.conversation_ads if ads.conversation_ads is None else ads.conversation_ads
        between = max(settings.turns_between_ads, ads.turns_between_ads or 0)
        left, withheld = ads_left(question.shown_before, min(settings.conversation_ads, cap), between)
        return cls(
            question=question,
            owner=owner,
            base_url=base_url.rstrip("/"),
            arrived=arrived,
            received_at=datetime.now(UTC),
            auction_id=new_auction_id(),
            seed=secrets.randbits(63) if seed is None else seed % 2**63,
            max_ads=min(settings.max_ads, wanted, left),
            withheld=withheld if ads.enabled else "",
            ad_load=ad_load,
            fades=fades,
            bid_scale=settings.bid_scale,
        )

    def shown_bid(self, offer: Offer) -> Micros:
        """Return the bid of an offer as the policy reads it, on the scale of prompts."""
        factor = self.ad_load * self.fades.get(offer.ad.id, 1.0)
        return self.bid_scale.shown(offer.bid, offer.campaign.currency, factor)

    @property
    def ads(self) -> AdsFields:
        """The request's `ads` object."""
        return self.question.request.ads

    @property
    def created(self) -> int:
        """Unix time of the request, in seconds."""
        return int(self.received_at.timestamp())

    @property
    def limits(self) -> AnswerLimits:
        """What the request asks of the generation."""
        request = self.question.request
        tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        return AnswerLimits(tokens, request.temperature)

    @property
    def version_key(self) -> str:
        """The key by which the policy version is chosen: a user and a conversation stay on one version."""
        return (self.ads.user_id if self.ads.consent else "") or self.ads.conversation_id or self.auction_id


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """Everything that is known of an answer when it has ended.

    `offers` are the candidates of the last prompt by ad id, in the order of the prompt, and `apart` the creatives that
    could not stand beside them; `evaluation` is None where no ads were wanted. `digest` and `revision` are the policy
    version's. `floor` is the lowest bid that took part. `ads` are the sponsored links that the reader saw, `left_out`
    the ads that the policy wrote past the maximum. `completed` is None unless the policy ended the answer itself.
    `written` are the deltas of its text, `stopped` is True if a stop sequence ended it. `withheld` is the reason code
    of a conversation that may have no ads, empty for others. `generations` is 2 where an answer without ads replaced a
    failed one. `error` is what ended an answer that failed or was cancelled. `delivered` is False where its client had
    gone before the end. `reserved_caps` is True if impressions of campaigns with frequency caps were reserved for it.
    Times in seconds since the request arrived; `first_token_s` is None without any text.
    """

    request: AnswerRequest
    outcome: AnswerOutcome
    model: str
    digest: str
    revision: str
    currency: str
    floor: Micros
    evaluation: EvaluationSummary | None
    offers: Mapping[AdId, Offer]
    apart: tuple[Displaced, ...]
    parsed: Answer = field(repr=False)
    ads: tuple[SponsoredLink, ...]
    left_out: tuple[AdId, ...]
    completed: Completed | None
    written: int
    stopped: bool
    generations: int
    withheld: str
    overhead_s: float
    first_token_s: float | None
    seconds: float
    error: Exception | None
    delivered: bool = True
    reserved_caps: bool = False

    def as_delivered(self, delivery: Delivery) -> AnswerResult:
        """Return the result with the ads alone that reached the reader."""
        ads = tuple(ad for ad in self.ads if ad.ad_id in delivery.ads)
        return replace(self, ads=ads, delivered=delivery.complete)

    @property
    def shown(self) -> tuple[AdId, ...]:
        """The ads that the reader saw, each once, in the order of the text."""
        return tuple(dict.fromkeys(ad.ad_id for ad in self.ads))

    @property
    def faults(self) -> list[str]:
        """Kinds of the broken markers that were removed from the text."""
        return [fault.kind for fault in self.parsed.faults]

    @property
    def finish_reason(self) -> str:
        """OpenAI's `finish_reason`."""
        ended = self.stopped or (self.completed is not None and self.completed.finished)
        return "stop" if ended and self.outcome is AnswerOutcome.ANSWERED else "length"
