"""The users of the feedback phase: the simulator's, and a judge at a local OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path

import pytest

from mechanism.errors import InputError, JudgeError
from mechanism.markers import parse, render_marker
from mechanism.types import Ad, Answer, Candidate, Context
from simulator.clicks import ClickModel
from tests.support.openai_server import Reply, Request, completion, serving
from trainers.config.schema import JudgeConfig
from trainers.irpo.feedback import judged_clicks, simulated_clicks

ADS = (Ad("A1", "Kestrel Trail Shoes", "trail shoes", "Kestrel"), Ad("A2", "Acornbank Savings", "savings", "Acornbank"))
CONTEXT = Context("c1", "Which shoes for muddy trails?", tuple(Candidate(ad, 500_000) for ad in ADS))


def answer(*ads: Ad) -> Answer:
    return parse(" ".join(["A snug heel helps.", *(f"Look at {render_marker(ad)}." for ad in ads)]), ADS)


SHOWN = [(CONTEXT, answer(ADS[0], ADS[1])), (CONTEXT, answer()), (CONTEXT, answer(ADS[1]))]


def likes_shoes(request: Request) -> Reply:
    """Clicks on Kestrel's ad wherever the schema asks about it."""
    asked = request.body["response_format"]["json_schema"]["schema"]["properties"]["clicks"]["properties"]
    clicks = {ad_id: {"reason": "it fits", "clicked": ad_id == "A1"} for ad_id in asked}
    return completion({"clicks": clicks, "relevance": 4, "nativeness": 3, "answer_quality": 5})


def judge_config(base_url: str, cache: Path, **changes: object) -> JudgeConfig:
    settings = {"base_url": base_url, "model": "m", "api_key_env": None, "cache": str(cache), **changes}
    return JudgeConfig.model_validate(settings)


def test_a_judge_clicks_and_is_not_asked_about_answers_without_ads(tmp_path: Path) -> None:
    reports: list[str] = []
    with serving(likes_shoes) as server:
        click = judged_clicks(judge_config(server.base_url, tmp_path), 7, reports.append)
        assert click(SHOWN) == [{"A1": True, "A2": False}, {}, {"A2": False}]
        assert len(server.requests) == 2
        again = judged_clicks(judge_config(server.base_url, tmp_path), 7, reports.append)
        assert again(SHOWN) == [{"A1": True, "A2": False}, {}, {"A2": False}]
        assert len(server.requests) == 2, "a repeated phase is answered from the cache"
    assert reports[0].startswith("judge: 2 calls")
    assert "2 from the cache" in reports[1]


def test_a_judge_that_spent_its_budget_stops_the_phase(tmp_path: Path) -> None:
    with serving(likes_shoes) as server:
        poor = judge_config(server.base_url, tmp_path, micros_per_million_written=10**9, budget_micros=1)
        with pytest.raises(JudgeError, match="budget"):
            judged_clicks(poor, 7, print)(SHOWN)
        assert server.requests == []


def test_a_missing_key_is_named_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serving(likes_shoes) as server:
        with pytest.raises(InputError, match="JUDGE_KEY"):
            judged_clicks(judge_config(server.base_url, tmp_path, api_key_env="JUDGE_KEY"), 7, print)(SHOWN)
        assert server.requests == []


def test_simulated_users_are_drawn_by_seed() -> None:
    many = SHOWN * 30
    one, same, other = (simulated_clicks(ClickModel(), seed)(many) for seed in (1, 1, 2))
    assert one == same != other
    assert [set(c) for c in one] == [set(a.shown()) for _, a in many]
