"""What is left of the accounts that pay for campaigns, for all campaigns at once.

The columns of campaigns hold the number of each one's account. An account that was never set is unlimited.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mechanism.types import Micros
from serving.auction.eligibility.changes import ChangeLog
from serving.auction.eligibility.columns import UNLIMITED, CampaignColumns, grown
from serving.auction.eligibility.postings import Mask, Postings
from serving.campaigns.funds import Account


class AccountFunds:
    """The accounts by number: what is left of each by the ledger, and what it owes beyond the ledger, in micros.

    `payers` lists campaigns by `Account.key`. A change of an account is a change of each campaign that it may concern.
    """

    def __init__(self, columns: CampaignColumns, payers: Postings, changes: ChangeLog) -> None:
        self._columns = columns
        self._payers = payers
        self._changes = changes
        self._numbers: dict[Account, int] = {}
        self._left: dict[Account, Micros] = {}  # of the limited ones
        self._accrued: dict[Account, Micros] = {}
        self._free_A = np.zeros(64, np.int64)

    def number(self, account: Account) -> int:
        """Return the number of an account."""
        if (known := self._numbers.get(account)) is not None:
            return known
        number = self._numbers[account] = len(self._numbers)
        if number >= len(self._free_A):
            self._free_A = grown(self._free_A, number + 1)
        self._free_A[number] = UNLIMITED
        return number

    def is_limited(self, account: Account) -> bool:
        """Return whether what an account may spend is limited."""
        return account in self._left

    def set_left(self, account: Account, left: Micros | None) -> None:
        """Set what is left of an account by the ledger; None is unlimited."""
        if left is None:
            self._left.pop(account, None)
        else:
            self._left[account] = left
        self._fill(account)

    def set_accrued(self, account: Account, micros: Micros) -> None:
        """Set what an account owes beyond the ledger."""
        self._accrued[account] = micros
        self._fill(account)

    def covering(self, accounts_C: NDArray[np.int64], prices_C: NDArray[np.int64]) -> Mask | None:
        """Return where campaigns' accounts cover their prices; None if no account is limited."""
        if not self._left:
            return None
        mask: Mask = self._free_A[accounts_C] >= prices_C
        return mask

    def _fill(self, account: Account) -> None:
        left, number = self._left.get(account), self.number(account)
        before = int(self._free_A[number])
        after = UNLIMITED if left is None else left - self._accrued.get(account, 0)
        self._free_A[number] = after
        lower, upper = min(before, after), max(before, after)
        if lower < upper and upper > 0:
            # Of a rich account, a charge changes no campaign's eligibility: only prices between the two sums matter.
            slots, columns = self._payers.slots(account.key), self._columns
            concerned = (columns.highest_price[slots] > lower) & (columns.least_price[slots] <= upper)
            self._changes.mark_many(slots[concerned].tolist())
