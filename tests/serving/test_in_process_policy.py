"""The shipped model behind the router, nothing scripted: the built-in ads, the frozen encoder, one real generation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.serve import builtin_catalogue
from inference.encoder import shared_encoder
from inference.models import resolve
from serving.catalogue import read_catalogue
from serving.policy import Completed, InProcessPolicy, TextDelta
from serving.retrieval import Retriever

pytestmark = pytest.mark.skipif(not Path(resolve("tiny")[0]).is_dir(), reason="the tiny model is not built yet")


@pytest.fixture(scope="module")
def tiny() -> InProcessPolicy:
    return InProcessPolicy.load("tiny")


def test_a_real_answer_is_labelled_linked_and_billable(
    router: Callable[..., Any], tiny: InProcessPolicy, tmp_path: Path
) -> None:
    path = builtin_catalogue(tmp_path, seed=0)
    with router(tmp_path, tiny, shared_encoder(), catalogue=read_catalogue(path)) as running:
        spent = 0
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
                assert httpx.get(ad["click_url"]).headers["location"] == f"/demo/{ad['ad_id']}"
                spent += ad["bid_micros"]
        assert running.get("/v1/ledger").json()["revenue_micros"] == ({"USD": spent} if spent else {})


def test_equal_seeds_write_equal_answers_with_propensities(tiny: InProcessPolicy, tmp_path: Path) -> None:
    from mechanism.types import Context

    catalogue = read_catalogue(builtin_catalogue(tmp_path, seed=0))
    found = Retriever(catalogue, shared_encoder()).candidates("Which headphones are good for noisy trains?", (), 20)
    assert {"A55", "A56"} <= {r.listing.ad.id for r in found}
    context = Context("c", "Which headphones are good for noisy trains?", tuple(r.listing.candidate() for r in found))
    first, second = (list(tiny.stream(context, 3, max_ads=2)) for _ in range(2))
    assert first == second
    *deltas, done = first
    assert all(isinstance(d, TextDelta) for d in deltas)
    assert isinstance(done, Completed)
    assert len(done.choices) <= 2
    for choice in done.choices:
        assert sum(choice.probabilities.values()) == pytest.approx(1, abs=1e-3)
