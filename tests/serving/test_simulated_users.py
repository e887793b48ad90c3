"""Simulated users against a real router: their questions are answered, and their clicks are valid traffic."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.serve import builtin_catalogue
from serving.campaigns.catalogue import read_catalogue
from simulator.fatigue import FatigueSettings
from simulator.users.asking import AskingSettings, Users
from simulator.users.population import Population, PopulationSettings
from simulator.users.reading import Pace
from simulator.world import World
from tests.serving.conftest import Running

AT_MOST_S = 60.0


def test_their_clicks_are_charged_and_none_is_invalid(start: Callable[..., Running], tmp_path: Path) -> None:
    ads = read_catalogue(builtin_catalogue(tmp_path, 0))
    router = start("For that, {*} is what people like best.", catalogue=ads, candidates=1)
    # nobody tires and everybody trusts: this is about the way of a click, not about what is clicked
    people = Population(World(), PopulationSettings(1.0, 0.01, FatigueSettings(click_floor=1.0)), 0)
    crowd = Users(people, AskingSettings(router.url, rate=12.0, pause_s=0.2, pace=Pace(20_000, 0.2)))
    end = time.monotonic() + AT_MOST_S
    asyncio.run(crowd.run(lambda: crowd.counts["clicked"] >= 10 or time.monotonic() > end))
    router.wait_until_charged()
    counts = dict(crowd.counts)
    assert counts["clicked"] >= 10
    assert set(counts) <= {"asked", "answered", "shown", "clicked"}
    told = re.findall(r'^llm_auction_clicks_total\{.*validity="(\w+)".*\} (\d+)', router.get("/metrics").text, re.M)
    clicks = {validity: int(count) for validity, count in told}
    assert sum(clicks.values()) == counts["clicked"]
    # a reader who clicks the same ad again within ten minutes is not charged for: that rule holds for everybody
    assert set(clicks) <= {"valid", "repeat_user", "repeat_address"}
    assert clicks["valid"] > sum(clicks.values()) / 2
    assert router.revenue()["USD"] > 0
    newest: dict[str, Any] = router.call("GET", "/v1/auctions?limit=1").json()["items"][0]
    assert newest["profile_used"]
    assert newest["placement"] == "simulated"
