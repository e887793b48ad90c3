"""The market drill's reference and checks: pure functions from what clients sent and saw to what must be in the books.

The reference shares neither code nor method with the platform. Budgets are nested (each day's within the total), so a
campaign pays min(total budget, sum over days of min(day's budget, prices of that day)), whatever the order of events.
Whether a click is valid is checked where clients can know it: a reader's first click on an ad is, a program's is not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from benchmarks.serving.market_records import Books, Charge, Journal, Market, Reply, Terms

LOST_S = 5.0
"""How long after an answer's end a kill of its router may still take what it had not written to its disk."""
STORED_S = 150.0
"""How long after a kill a client may still ask again: its patience and one more attempt."""
WHOLE_SHARE = 1_000


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The books compared with the reference.

    doubled            keys with two answers or two charged auctions, conversions that are stored or reported twice
    overrun_share      the most that a campaign gave away beyond a day's or its whole budget, as a share of it
    caps_broken        pairs of reader and campaign with more impressions than its cap
    caps_reached       pairs with exactly as many
    caps_uncounted     impressions of such campaigns that do not count, without a kill of their router
    payout_difference_micros  sum of all differences of the payouts from the shares of the charges
    lost_clicks        clients were redirected, and neither a charge nor a reason is on record
    refused_clicks     a reader's first clicks that are on record as invalid alone
    charged_programs   clicks of programs that are on record as valid
    lost_impressions   arrived whole, priced by impression, and not on record, without a kill of their router
    lost_with_router   the same, with a kill of their router within seconds
    unknown_charges    charges of what no client followed or saw
    wrong_prices       charges at another price, campaign or placement than what was shown
    wrong_campaigns    campaigns that paid another sum than the reference's
    wrong_reports      campaigns whose report differs from the charges and conversions on record
    lost_conversions   confirmed to the advertiser, and not stored, or not in the event log
    """

    doubled: int
    overrun_share: float
    caps_broken: int
    payout_difference_micros: int
    caps_reached: int
    caps_uncounted: int
    lost_clicks: int
    refused_clicks: int
    charged_programs: int
    lost_impressions: int
    lost_with_router: int
    unknown_charges: int
    wrong_prices: int
    wrong_campaigns: int
    wrong_reports: int
    lost_conversions: int

    def faults(self, most_overrun: float) -> list[str]:
        """Return the names of the figures that must not be what they are; empty if the market is exact."""
        zero = set(self.__struct_fields__) - {"overrun_share", "caps_reached", "lost_with_router"}
        wrong = [name for name in self.__struct_fields__ if name in zero and getattr(self, name)]
        return wrong + (["overrun_share"] if self.overrun_share > most_overrun else [])


def compare(market: Market, journal: Journal, books: Books) -> Comparison:
    """Compare the books with what the clients sent and saw."""
    impressions = _impressions(market, journal, books)
    broken, reached = caps(market, journal.replies)
    return Comparison(
        doubled=doubled(journal, books),
        overrun_share=max(overruns(market.campaigns, books.charges).values(), default=0.0),
        caps_broken=broken,
        payout_difference_micros=payout_difference(market, books),
        caps_reached=reached,
        caps_uncounted=_caps_uncounted(market, journal, books),
        lost_clicks=_lost_clicks(journal, books),
        refused_clicks=_refused_clicks(journal, books),
        charged_programs=_charged_programs(journal, books),
        lost_impressions=impressions["lost"],
        lost_with_router=impressions["lost_with_router"],
        unknown_charges=_unknown_charges(journal, books),
        wrong_prices=_wrong_prices(market, journal, books),
        wrong_campaigns=_wrong_campaigns(market, books),
        wrong_reports=_wrong_reports(books),
        lost_conversions=_lost_conversions(journal, books),
    )


def doubled(journal: Journal, books: Books) -> int:
    """Count what happened twice although it was asked for once."""
    answers: dict[str, set[str]] = defaultdict(set)
    keys: dict[str, str] = {}
    for reply in journal.replies:
        keys[reply.auction] = reply.key
        if reply.whole:
            answers[reply.key].add(reply.auction)
    charged: dict[str, set[str]] = defaultdict(set)
    for charge in _valid(books.charges):
        if charge.kind == "impression" and charge.auction in keys:
            charged[keys[charge.auction]].add(charge.auction)
    found = sum(len(auctions) - 1 for auctions in (*answers.values(), *charged.values()))
    charges = Counter((charge.id, charge.kind) for charge in _valid(books.charges))
    stored = Counter(click for click, _ in books.conversions)
    reported = sum(line.conversions for line in books.reports.values())
    found += sum(count - 1 for count in (*charges.values(), *stored.values()))
    return found + max(0, reported - len(stored))


def overruns(campaigns: Mapping[str, Terms], charges: Iterable[Charge]) -> dict[str, float]:
    """Return what each campaign gave away beyond its budgets, as a share of the budget; only those that did."""
    days: dict[tuple[str, str], int] = defaultdict(int)
    for charge in _valid(charges):
        days[charge.campaign, charge.day] += charge.price
    found: dict[str, float] = defaultdict(float)
    totals: dict[str, int] = defaultdict(int)
    for (name, _), worth in days.items():
        daily = campaigns[name].daily
        totals[name] += worth if daily is None else min(worth, daily)
        if daily is not None and worth > daily:
            found[name] = max(found[name], (worth - daily) / daily)
    for name, worth in totals.items():
        total = campaigns[name].total
        if total is not None and worth > total:
            found[name] = max(found[name], (worth - total) / total)
    return dict(found)


def caps(market: Market, replies: Iterable[Reply]) -> tuple[int, int]:
    """Return how many pairs of reader and campaign saw more than the cap, and how many exactly as many.

    A reader has seen an ad once the link has arrived, also where the rest of the answer has not.
    """
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for reply in replies:
        for ad in reply.ads:
            if market.campaigns[ad.campaign].cap is not None:
                seen[reply.reader, ad.campaign].add(reply.auction)
    counts = [(len(auctions), market.campaigns[campaign].cap or 0) for (_, campaign), auctions in seen.items()]
    return sum(count > cap for count, cap in counts), sum(count == cap for count, cap in counts)


def payout_difference(market: Market, books: Books) -> int:
    """Sum the differences of the payouts from the placements' shares of the charges, and from the reports' revenue."""
    charged: dict[tuple[str, str], int] = defaultdict(int)
    due: dict[tuple[str, str], int] = defaultdict(int)
    for charge in books.charges:
        publisher, share = market.shares.get(charge.placement, ("", 0))
        charged[publisher, charge.placement] += charge.charged
        due[publisher, charge.placement] += charge.charged * share // WHOLE_SHARE
    lines = {(line.publisher, line.placement): line for line in books.payouts}
    difference = 0
    for key in charged.keys() | lines.keys():
        gross, share, line = charged.get(key, 0), due.get(key, 0), lines.get(key)
        if line is None:
            difference += gross
            continue
        difference += abs(line.charged - gross) + abs(line.publisher_micros - share)
        difference += abs(line.platform_micros - (gross - share))
    revenue = sum(line.revenue for line in books.reports.values())
    paid = sum(line.publisher_micros + line.platform_micros for line in books.payouts)
    return difference + abs(revenue - paid)


def _caps_uncounted(market: Market, journal: Journal, books: Books) -> int:
    return len(
        {
            (reply.auction, ad.ad)
            for reply in journal.replies
            for ad in reply.ads
            if reply.whole
            and market.campaigns[ad.campaign].cap is not None
            and (reply.auction, ad.ad) not in books.counted
            and not _router_was_killed(journal, reply.auction)
        }
    )


def _lost_clicks(journal: Journal, books: Books) -> int:
    listed = {charge.id for charge in books.charges if charge.kind == "click"}
    return len({link.click for link in journal.clicks if link.confirmed} - listed)


def _refused_clicks(journal: Journal, books: Books) -> int:
    listed = {charge.id for charge in books.charges if charge.kind == "click"}
    valid = {charge.id for charge in _valid(books.charges) if charge.kind == "click"}
    first = {link.click for link in journal.clicks if link.confirmed and link.first and not link.program}
    return len((first & listed) - valid)


def _charged_programs(journal: Journal, books: Books) -> int:
    valid = {charge.id for charge in _valid(books.charges) if charge.kind == "click"}
    persons = {link.click for link in journal.clicks if not link.program}
    return len(({link.click for link in journal.clicks if link.program} - persons) & valid)


def _impressions(market: Market, journal: Journal, books: Books) -> Counter[str]:
    """Count the impressions that arrived whole at once and are not charged.

    A client that left has no impression to pay for, nor does the answer that its retry gets from the store.
    """
    charged = {charge.id for charge in books.charges if charge.kind == "impression"}
    failed = {reply.auction for reply in journal.replies if not reply.whole}
    missing = {
        reply.auction
        for reply in journal.replies
        for ad in reply.ads
        if reply.whole and reply.auction not in failed and market.campaigns[ad.campaign].pricing == "impression"
        if f"{reply.auction}:{ad.ad}" not in charged
    }
    return Counter("lost_with_router" if _router_was_killed(journal, auction) else "lost" for auction in missing)


def _router_was_killed(journal: Journal, auction: str) -> bool:
    """Whether a kill may have taken what the router of an answer knew of it.

    It was sent shortly before; or its client got it from the store alone, within its patience after a kill, so that the
    first delivery failed.
    """
    first = min((reply for reply in journal.replies if reply.auction == auction), key=lambda reply: reply.ended)
    kills = [kill for kill in journal.kills if kill.router >= 0]
    if first.stored:
        return any(0 <= first.ended - kill.at <= STORED_S for kill in kills)
    return any(kill.router == first.router and -1 <= kill.at - first.ended <= LOST_S for kill in kills)


def _unknown_charges(journal: Journal, books: Books) -> int:
    followed = {link.click for link in journal.clicks}
    seen = {f"{reply.auction}:{ad.ad}" for reply in journal.replies for ad in reply.ads}
    known = {"click": followed, "impression": seen}
    return sum(charge.id not in known.get(charge.kind, set()) for charge in books.charges)


def _wrong_prices(market: Market, journal: Journal, books: Books) -> int:
    placements = {reply.auction: reply.placement for reply in journal.replies}
    campaigns = {(reply.auction, ad.ad): ad.campaign for reply in journal.replies for ad in reply.ads}
    wrong = 0
    for charge in _valid(books.charges):
        terms = market.campaigns.get(charge.campaign)
        if terms is None or charge.kind != terms.pricing:
            wrong += charge.price > 0
            continue
        right = charge.price == terms.bid if charge.kind == "click" else 0 < charge.price <= terms.bid
        right = right and placements.get(charge.auction, charge.placement) == charge.placement
        wrong += not (right and campaigns.get((charge.auction, charge.ad), charge.campaign) == charge.campaign)
    return wrong


def _wrong_campaigns(market: Market, books: Books) -> int:
    prices: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    paid: dict[str, int] = defaultdict(int)
    for charge in books.charges:
        paid[charge.campaign] += charge.charged
        if not charge.invalid:
            prices[charge.campaign][charge.day] += charge.price
    wrong = 0
    for name, terms in market.campaigns.items():
        due = sum(worth if terms.daily is None else min(worth, terms.daily) for worth in prices[name].values())
        wrong += paid[name] != (due if terms.total is None else min(due, terms.total))
    return wrong


def _wrong_reports(books: Books) -> int:
    """Count the campaigns whose reported clicks or revenue are not those on record, and wrong values of conversions."""
    clicks, revenue = Counter[str](), Counter[str]()
    for charge in _valid(books.charges):
        clicks[charge.campaign] += charge.kind == "click"
        revenue[charge.campaign] += charge.charged
    nothing = (0, 0)
    shown = {name: (line.clicks, line.revenue) for name, line in books.reports.items()}
    names = shown.keys() | clicks.keys()
    wrong = sum(shown.get(name, nothing) != (clicks[name], revenue[name]) for name in names)
    value = sum(line.conversion_value for line in books.reports.values())
    return wrong + (value != sum(value for _, value in books.conversions))


def _lost_conversions(journal: Journal, books: Books) -> int:
    sent = {(one.click, one.value) for one in journal.conversions if one.confirmed}
    return len(sent - set(books.conversions)) + len({click for click, _ in books.conversions} - books.logged)


def _valid(charges: Iterable[Charge]) -> Iterable[Charge]:
    return (charge for charge in charges if not charge.invalid)
