"""The shipped model behind the router: the built-in ads, the frozen encoder and real generations."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.serve import builtin_catalogue
from inference.encoder import shared_encoder
from inference.models import resolve
from mechanism.errors import InputError
from mechanism.weights import digest_of
from serving.campaigns.catalogue import read_catalogue
from serving.policies.model import ModelPolicy
from serving.policies.protocol import AnswerLimits, Completed, TextDelta
from serving.policies.triton.repository import build_repository
from trainers.artifacts.registry import Registry

pytestmark = pytest.mark.skipif(not Path(resolve("tiny")).is_dir(), reason="the tiny model is not built yet")


OFFERED = [f"A{number}" for number in range(45, 65)]


@pytest.fixture(scope="module")
def tiny() -> ModelPolicy:
    return ModelPolicy.load("tiny")


def test_a_real_answer_is_labelled_linked_and_billable(
    router: Callable[..., Any], tiny: ModelPolicy, tmp_path: Path
) -> None:
    path = builtin_catalogue(tmp_path, seed=0)
    with router(tmp_path, tiny, shared_encoder(), catalogue=read_catalogue(path)) as running:
        spent, ages = 0, dict[str, float]()
        bids = {listing.ad.id: listing.bid for listing in read_catalogue(path)}
        for seed in range(6):
            question = "Which headphones are good for noisy trains?"
            answer = running.ask(messages=[{"role": "user", "content": question}], seed=seed)
            content = answer["choices"][0]["message"]["content"]
            assert content
            assert not re.search(r"@[^@]*@\[", content)
            assert running.get("/v1/auctions/" + answer["auction"]["auction_id"]).json()["faults"] == []
            for ad in answer["ads"]:
                assert content[slice(*ad["span"])] == f"[{ad['title']}]({ad['click_url']}) (Sponsored)"
            for ad in {a["ad_id"]: a for a in answer["ads"]}.values():
                # hours later, so that one address may click the same ad in another answer
                ages[ad["ad_id"]] = ages.get(ad["ad_id"], 0) + 3_600
                clicked = running.click(ad["click_url"], age_s=ages[ad["ad_id"]])
                assert clicked.headers["location"] == f"/demo/{ad['ad_id']}"
                spent += bids[ad["ad_id"]]
        running.wait_until_charged()
        assert running.revenue() == ({"USD": spent} if spent else {})


def test_a_registered_model_has_one_digest_and_changed_weights_are_refused(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    entry = registry.register(resolve("tiny"), base="tiny")
    folder = registry.fetch(entry.version)
    local = ModelPolicy.load(str(folder))
    built = build_repository(str(tmp_path), tmp_path / "repository", version=entry.version)
    assert local.digest == built.digest == digest_of(entry.sha256)
    assert ModelPolicy.load("tiny").digest == local.digest
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes() + b"more")
    with pytest.raises(InputError, match=r"not those of model\.json"):
        ModelPolicy.load(str(folder))


def test_equal_seeds_write_equal_answers_with_propensities(tiny: ModelPolicy, tmp_path: Path) -> None:
    from mechanism.types import Candidate, Context

    ads = [listing for listing in read_catalogue(builtin_catalogue(tmp_path, seed=0)) if listing.ad.id in OFFERED]
    assert len(ads) == len(OFFERED)
    context = Context("c", "Which headphones are good for noisy trains?", tuple(Candidate(ad.ad, ad.bid) for ad in ads))
    first, second = (list(tiny.stream(context, 3, max_ads=2)) for _ in range(2))
    assert first == second
    *deltas, done = first
    assert all(isinstance(d, TextDelta) for d in deltas)
    assert isinstance(done, Completed)
    assert len(done.choices) <= 2
    for choice in done.choices:
        assert sum(choice.probabilities.values()) == pytest.approx(1, abs=1e-3)


def test_an_answer_keeps_the_limits_of_its_request(tiny: ModelPolicy) -> None:
    from mechanism.types import Context

    context = Context("c", "", (), turns=(("user", "Which tents are light?"), ("assistant", "Tents with")))
    *_, short = tiny.stream(context, 3, 0, AnswerLimits(max_tokens=3))
    assert isinstance(short, Completed)
    assert (short.tokens, short.finished) == (3, False)
    *_, long = tiny.stream(context, 3, 0, AnswerLimits(max_tokens=10_000))  # never more than the model's own maximum
    assert isinstance(long, Completed)
    coldest = [list(tiny.stream(context, seed, 0, AnswerLimits(temperature=0.0)))[:-1] for seed in (1, 2)]
    assert coldest[0] == coldest[1]


def test_a_campaign_with_an_unseen_title_and_need_is_shown(tiny: ModelPolicy, tmp_path: Path) -> None:
    from mechanism.types import Ad, Candidate, Context

    kites = Candidate(Ad("falcon-1", "Falcon Kites", "kites for windy beaches", "Falcon"), 450_000)
    listings = list(read_catalogue(builtin_catalogue(tmp_path, seed=0)))[40:59]
    ads = [Candidate(listing.ad, listing.bid) for listing in listings]
    context = Context("c", "Which kites are good for windy beaches?", (*ads, kites))
    ends = [list(tiny.stream(context, seed, max_ads=3))[-1] for seed in range(12)]
    shown = [isinstance(end, Completed) and "falcon-1" in {c.chosen for c in end.choices} for end in ends]
    assert sum(shown) >= 4
