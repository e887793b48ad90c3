"""Requests for an auction are validated, and their `repr` hides the reader."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mechanism.errors import InputError
from serving.auction.eligibility import PlacementRequest

ASK = PlacementRequest("a", datetime(2026, 1, 1, tzinfo=UTC), "EUR", query="good running shoes", user_id="reader")


def test_requests_are_validated_and_hide_the_reader() -> None:
    with pytest.raises(InputError, match="now"):
        replace(ASK, now=datetime(2026, 1, 1))
    with pytest.raises(InputError, match="floor_micros"):
        replace(ASK, floor_micros=-1)
    assert "reader" not in repr(ASK)
    assert "running" not in repr(ASK)
