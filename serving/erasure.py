"""Erasing readers on request, by user, by answer or by age: one function behind `llm-auction erase` and the HTTP API.

The tables know pseudonyms only; the routers' secrets turn a user's id into them. `streaming.lake.erasures` changes the
tables, keeps the request in force, and writes the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from mechanism.errors import InputError
from serving.settings import PSEUDONYMS, derived
from streaming.pseudonyms import pseudonym
from streaming.topics import INTERACTIONS

if TYPE_CHECKING:
    from streaming.lake.store import Lake

MOST_DAYS = 36_500


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose data to erase: exactly one of the three.

    user_id           the user's id, as clients send it in `ads.user_id`
    auction_id        one answer, for readers without an id
    older_than_days   all answers that are older
    """

    user_id: str | None = None
    auction_id: str | None = None
    older_than_days: float | None = None


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did: the number of answers, and when the erased data have left files, log and dead letters.

    The lake's readers see them no more. `files_until` holds while the tables are maintained at least every 12 hours.
    An erasure by age does not reach the log (None), which drops its records by its own retention.
    """

    answers: int
    files_until: datetime
    log_until: datetime | None = None
    dead_letters_until: datetime | None = None


def erase(
    lake: Lake, selection: Selection, secrets: Callable[[], Sequence[bytes]], who: str, retention: timedelta
) -> Erased:
    """Erase the reader's part of the selected answers; `retention` is that of the log's topics.

    `secrets` returns all secrets of the routers and is called for a user only. LakeUnavailable propagates if the tables
    cannot be changed now.

    Raises:
        InputError: if not exactly one thing is selected or it cannot be one, or if there is no lake.
    """
    from streaming.lake import erasures
    from streaming.lake.store import KEPT_HOURS

    _check(selection)
    users = () if selection.user_id is None else pseudonyms(selection.user_id, secrets())
    if not lake.has(INTERACTIONS):
        raise InputError("lake", lake.url, "no lake is there: give what `llm-auction worker lake` writes to")
    now = datetime.now(UTC)
    files_until = now + timedelta(hours=KEPT_HOURS + 12)
    if selection.older_than_days is not None:
        answers = erasures.erase_before(lake, now - timedelta(days=selection.older_than_days), who, now)
        return Erased(answers=answers, files_until=files_until)
    done = [erasures.erase(lake, "user", user, who, retention, now) for user in users]
    if selection.auction_id is not None:
        done = [erasures.erase(lake, "auction", selection.auction_id, who, retention, now)]
    return Erased(
        answers=sum(answers for _, answers in done),
        files_until=files_until,
        log_until=now + retention + erasures.SEGMENT,
        dead_letters_until=done[0][0].log_until,
    )


def pseudonyms(user_id: str, secrets: Sequence[bytes]) -> tuple[str, ...]:
    """Return what stands for a user in events, by each of the routers' secrets."""
    return tuple(pseudonym(user_id, derived(secret, PSEUDONYMS)) for secret in secrets)


def _check(selection: Selection) -> None:
    given = [name for name in selection.__struct_fields__ if getattr(selection, name) is not None]
    if len(given) != 1:
        known = ", ".join(selection.__struct_fields__)
        raise InputError("erasure", ", ".join(given), f"give exactly one of {known}")
    if selection.user_id == "":
        raise InputError("user_id", selection.user_id, "give the user's id")
    if selection.older_than_days is not None and not 0 < selection.older_than_days <= MOST_DAYS:
        raise InputError("older_than_days", selection.older_than_days, f"give days above 0, {MOST_DAYS} at most")
