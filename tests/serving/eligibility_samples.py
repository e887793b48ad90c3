"""Campaigns, requests and checks of the tests of eligibility."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.answering.auction_records import EvaluationSummary
from serving.auction.eligibility import EligibilityIndex, Evaluation, PlacementRequest, ReachedCaps, Reason, rules
from serving.campaigns.funds import Account
from serving.campaigns.types import Campaign, CampaignState, Creative, Priority, ReviewState, Spend

NOW = datetime(2026, 3, 29, 0, 59, 30, tzinfo=UTC)  # half a minute before Berlin skips an hour
LONG_AGO = NOW - timedelta(days=400)
CREATIVE = Creative(id="A1", title="t", landing_url="https://x.example", review=ReviewState.APPROVED)
GOOD = Campaign(
    id="C1",
    advertiser_id="kestrel",
    name="n",
    category="shoes",
    state=CampaignState.ACTIVE,
    creatives=(CREATIVE,),
    bid_micros=100,
    currency="EUR",
    starts_at=LONG_AGO,
    created_at=LONG_AGO,
    updated_at=LONG_AGO,
)
ASK = PlacementRequest(
    auction_id="x",
    now=NOW,
    currency="EUR",
    country="DE",
    language="en-GB",
    category="sport",
    placement="chat",
    query="good running shoes",
    user_id="reader",
    consent=True,
)


def change(record: Any, **fields: Any) -> Any:
    replace = msgspec.structs.replace if isinstance(record, msgspec.Struct) else __import__("dataclasses").replace
    return replace(record, **fields)


def mostly(usual: Any, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """`usual` in two of three cases: a campaign that any rule could exclude would seldom pass the first."""
    return st.one_of(st.just(usual), st.just(usual), other)


def check_same(
    index: EligibilityIndex,
    known: dict[str, Campaign],
    spends: dict[str, Spend],
    paces: dict[str, float],
    funds: dict[Account, int],
    request: PlacementRequest,
    reached: ReachedCaps,
) -> None:
    expected = rules.evaluate(known.values(), request, spends, paces, reached, funds)
    found = index.evaluate(request, reached)
    assert reasons(found) == {(d.campaign_id, d.creative_id): d.reason for d in expected}
    rows = {c.id: list(index.rows_of(c.id)) for c in known.values()}
    every = sorted(row for taken in rows.values() for row in taken)
    assert len(set(every)) == len(every)
    admitted = np.array(every, np.int64)[found.admits(np.array(every, np.int64))]
    eligible = found.eligible(admitted)
    assert len(found) == len(eligible)
    wanted = {(d.campaign_id, d.creative_id, d.bid) for d in expected if d.reason is None}
    assert {(e.campaign.id, e.creative.id, e.bid) for e in eligible} == wanted
    assert {(e.campaign_id, e.ad_id, e.bid_micros) for e in EvaluationSummary.of(found).eligible()} == wanted
    assert all(row in rows[e.campaign.id] for row, e in zip(admitted.tolist(), eligible, strict=True))
    excluded = {(d.reason, d.creative_id if d.reason.of_creative else d.campaign_id) for d in expected if d.reason}
    assert found.counts == Counter(reason for reason, _ in excluded)
    assert found.campaign_count == len(known)
    check_tiers(found, np.array(every, np.int64))


def check_tiers(found: Evaluation, rows: NDArray[np.int64]) -> None:
    """The tiers, the highest first, share the eligible creatives out by priority."""
    tiers = list(found.tiers())
    ranks = [priority.rank for priority, _ in tiers]
    assert ranks == sorted(set(ranks), reverse=True)
    offered = [(priority, one) for priority, tier in tiers for one in tier.eligible(rows[tier.admits(rows)])]
    assert all(one.campaign.priority is priority for priority, one in offered)
    eligible = found.eligible(rows[found.admits(rows)])
    assert sorted(one.creative.id for _, one in offered) == sorted(one.creative.id for one in eligible)
    for priority, tier in tiers:
        admitted = rows[tier.admits(rows)]
        assert len(tier) == len(admitted)
        assert len(tier) or (priority is Priority.STANDARD and len(tiers) == 1)
        if tier.few_rows is not None:
            few: NDArray[np.int64] = tier.few_rows
            assert sorted(few[tier.admits(few)].tolist()) == sorted(admitted.tolist())


def reasons(evaluation: Evaluation) -> dict[tuple[str, str], Reason | None]:
    """Why each creative is excluded, None if it is eligible, by ids of campaign and creative."""
    summary = EvaluationSummary.of(evaluation)
    found: dict[tuple[str, str], Reason | None] = {(e.campaign_id, e.ad_id): e.reason for e in summary.exclusions()}
    return found | {(e.campaign_id, e.ad_id): None for e in summary.eligible()}


def only_bid(evaluation: Evaluation) -> int:
    """The bid of the only eligible creative, which has the first row."""
    assert len(evaluation) == 1
    assert evaluation.admits(np.zeros(1, np.int64)).all()
    return evaluation.eligible(np.zeros(1, np.int64))[0].bid
