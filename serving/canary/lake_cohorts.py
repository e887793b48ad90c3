"""Cohorts of every version from the lake, by the query of the training set: each answer once, with its valid clicks.

A click counts in its answer's minute if it came within the click window, for every version alike. The comparison is
`mechanism.canary`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mechanism.canary.cohorts import MINUTE_S, Tally, minute_of
from mechanism.objective import Penalty, s_resp
from mechanism.types import Answer, Fault, Insertion
from streaming.lake import TrainingSet

MAX_COHORTS = 2_880
"""Minutes that are kept: two days."""
ENOUGH = 100_000
"""Answers with which the first read of the lake is content."""
LATE_S = 120.0
"""Seconds after a minute's click window until which its events may arrive: minutes before that are not read again."""
_SQL = """
SELECT model_digest, occurred_us, outcome, answer_s, currency, faults, shown, participations, clicks
FROM training_set WHERE outcome <> 'cancelled' AND cardinality(candidates) > 0
"""


class LakeCohorts:
    """Tallies by minute and by the digest of the weights that wrote the answers, as of the last `refresh`.

    Money of several currencies is never added: revenue counts auctions in the currency of the first one read.
    InputError propagates if the click window is not positive.
    """

    def __init__(
        self,
        url: str,
        click_window_s: float,
        penalty: Penalty,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.click_window_s = click_window_s
        self.until: datetime | None = None
        """Time up to which all events are counted; None if that is unknown."""
        self._url = url
        self._penalty = penalty
        self._clock = clock
        self._minutes: dict[int, dict[str, Tally]] = {}
        self._open: int | None = None
        self._currency = ""
        self._lake()

    def refresh(self) -> None:
        """Read what is new: at first the newest answers, then the minutes to which events may still be added.

        LakeUnavailable propagates if the lake cannot be read now.
        """
        lake, now = self._lake(), self._clock()
        if not lake.exists:
            return
        newest = minute_of(now.timestamp())
        if self._open is None:
            self._open = self._read_back(lake, newest)
        else:
            self._read(lake, self._open, None)
        self.until = lake.watermark()
        if self.until is not None:
            complete = min(now, self.until).timestamp() - self.click_window_s - LATE_S
            self._open = max(self._open, minute_of(complete))
        for minute in [minute for minute in self._minutes if minute <= newest - MAX_COHORTS]:
            del self._minutes[minute]

    def of(self, digest: str, since: datetime | None = None) -> dict[int, Tally]:
        """Return a version's cohorts by minute, in order, from the minute of `since` on."""
        begin = 0 if since is None else minute_of(since.timestamp())
        return {
            minute: self._minutes[minute][digest]
            for minute in sorted(self._minutes)
            if minute >= begin and digest in self._minutes[minute]
        }

    def _lake(self) -> TrainingSet:
        return TrainingSet(self._url, self.click_window_s)

    def _read_back(self, lake: TrainingSet, newest: int) -> int:
        """Read back in time until there are enough answers; return the first minute that was read."""
        answers = self._read(lake, newest, None)
        begin, step = newest, 60
        while answers < ENOUGH and begin > newest - MAX_COHORTS:
            earlier = max(begin - step, newest - MAX_COHORTS)
            answers += self._read(lake, earlier, begin)
            begin, step = earlier, 2 * step
        return begin

    def _read(self, lake: TrainingSet, begin: int, end: int | None) -> int:
        """Replace the tallies from the minute `begin` to before `end`; return the number of answers."""
        answers, found = 0, dict[int, dict[str, Tally]]()
        for table in lake.select(_SQL, _moment(begin), None if end is None else _moment(end)):
            answers += table.num_rows
            for batch in table.to_batches(max_chunksize=1_000):
                for row in batch.to_pylist():
                    minute = minute_of(row["occurred_us"] / 1_000_000)
                    self._add(found.setdefault(minute, {}).setdefault(row["model_digest"], Tally()), row)
        kept = {minute: by for minute, by in self._minutes.items() if minute < begin or (end or minute + 1) <= minute}
        self._minutes = kept | found
        return answers

    def _add(self, tally: Tally, row: Mapping[str, Any]) -> None:
        self._currency = self._currency or row["currency"]
        priced = row["currency"] == self._currency
        tally.add_answer(
            failed=row["outcome"] != "answered",
            shown=len(row["shown"]),
            seconds=row["answer_s"],
            penalty=self._penalty_of(row),
            priced=priced,
        )
        clicked = {click["ad_id"] for click in row["clicks"] or ()}
        tally.clicks += len(clicked)
        if priced:
            earned = sum(part["price_micros"] for part in row["participations"])
            for ad in row["shown"]:
                if ad["pricing"] != "click" or ad["ad_id"] in clicked:
                    earned += ad["price_micros"]
            tally.add_revenue(earned)

    def _penalty_of(self, row: Mapping[str, Any]) -> float:
        """Return the penalty of the shown ads in points. An ad shown twice counts once: an event lists it once."""
        shown = tuple(Insertion(ad["ad_id"], 0, 0) for ad in row["shown"])
        return s_resp(Answer("", "", shown, tuple(Fault(kind, 0) for kind in row["faults"])), self._penalty)


def newest(cohorts: Mapping[int, Tally], answers: int) -> dict[int, Tally]:
    """Return the newest cohorts that hold `answers` answers together, or all if they hold fewer."""
    found: dict[int, Tally] = {}
    for minute in sorted(cohorts, reverse=True):
        if sum(tally.answers for tally in found.values()) >= answers:
            break
        found[minute] = cohorts[minute]
    return found


def _moment(minute: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=minute * MINUTE_S)
