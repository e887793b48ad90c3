"""Simulated users: what they see of an answer, what they carry, and that a real router counts their clicks as valid."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mechanism.errors import ConfigError, InputError
from mechanism.types import Profile
from simulator.clicks import ClickModel
from simulator.users.asking import AskingSettings, Users, own_address
from simulator.users.population import Population, PopulationSettings
from simulator.users.reading import Pace, Read, read
from simulator.world import Query, World

WORLD = World()


def completion(*ads: str, text: str = "Good ones are {0} and {1}.") -> dict[str, Any]:
    """A chat completion with links to `ads`, as the router writes it."""
    content, links = "", []
    parts = text.replace("{0}", "\0").replace("{1}", "\0").split("\0")
    by_id = {ad.id: ad for ad in WORLD.ads}
    for number, part in enumerate(parts):
        content += part
        if number < len(ads):
            ad = by_id[ads[number]]
            link = f"[{ad.title}](http://router/c/t{number}) (Sponsored)"
            links.append(
                {
                    "ad_id": ad.id,
                    "title": ad.title,
                    "advertiser": ad.advertiser,
                    "click_url": f"http://router/c/t{number}",
                    "span": [len(content), len(content) + len(link)],
                    "creative": {"title": ad.title, "text": ad.text},
                }
            )
            content += link
    return {"choices": [{"message": {"content": content}}], "ads": links}


def test_links_become_titles_where_they_stand() -> None:
    first, second = WORLD.ads[0], WORLD.ads[7]
    seen = read(completion(first.id, second.id))
    assert seen.answer.text == f"Good ones are {first.title} and {second.title}."
    assert [seen.answer.text[i.start : i.end] for i in seen.answer.insertions] == [first.title, second.title]
    assert seen.links == {first.id: "http://router/c/t0", second.id: "http://router/c/t1"}
    assert seen.ads[0].text == first.text


def test_a_reader_sees_the_auction_that_training_sees_but_for_bids_and_other_candidates() -> None:
    query = next(q for q in WORLD.train_queries if q.turns)
    ad = WORLD.ads[WORLD.most_relevant(query, 5)[0]]
    seen = read(completion(ad.id, text="People like {0} best."))
    context = WORLD.sample_context(query, np.random.default_rng(0), 100)
    reader = replace(seen.context(query.id, query), candidates=context.candidates)
    assert reader == context


def test_earlier_turns_decide_what_is_clicked() -> None:
    truth, rates = ClickModel(), []
    following = [q for q in WORLD.train_queries[:400] if q.turns and q.category not in q.text.lower()]
    for query in following:
        ad = next(ad for ad in WORLD.ads if ad.category == query.category)
        seen = read(completion(ad.id, text="There are a few points to it. People like {0} best."))
        context = seen.context("", replace(query, profile=Profile("u")))
        asked = (context, replace(context, turns=()))
        rates.append([truth.probabilities(c, seen.answer)[ad.id] for c in asked])
    assert np.mean(rates, 0)[0] > 1.3 * np.mean(rates, 0)[1]


async def sent(query: Query) -> dict[str, Any]:
    """The body of the request that asks a query, as a server receives it."""
    bodies: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"choices": [{"message": {"content": "Nothing fits."}}]})

    users = Users(population(), AskingSettings())
    await users._client.aclose()
    users._client = httpx.AsyncClient(base_url="http://router", transport=httpx.MockTransport(handle))
    assert await users._ask(query)
    await users._client.aclose()
    return bodies[0]


@pytest.mark.parametrize("following", [False, True])
def test_a_question_is_asked_with_the_conversation_before_it(following: bool) -> None:
    query = next(q for q in WORLD.train_queries if bool(q.turns) is following)
    messages = asyncio.run(sent(query))["messages"]
    assert [m["role"] for m in messages] == (["user", "assistant", "user"] if following else ["user"])
    assert tuple((m["role"], m["content"]) for m in messages) == (*query.turns, ("user", query.text))


def test_an_answer_without_ads_is_read_too() -> None:
    seen = read({"choices": [{"message": {"content": "Nothing fits."}}]})
    assert (seen.answer.text, seen.ads, seen.links) == ("Nothing fits.", (), {})


@pytest.mark.parametrize("wrong", [{}, {"choices": []}, {"choices": [{"message": {"content": "a"}}], "ads": [{}]}])
def test_what_is_no_completion_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read(wrong)


def test_a_span_that_misses_its_title_is_refused() -> None:
    answer = completion(WORLD.ads[0].id, WORLD.ads[1].id)
    answer["ads"][0]["span"] = [0, 4]
    with pytest.raises(InputError, match="span"):
        read(answer)


def test_nobody_clicks_before_they_can_have_read() -> None:
    rng = np.random.default_rng(0)
    pace = Pace()
    assert min(pace.until_click(0, rng) for _ in range(500)) >= pace.quickest_s
    assert np.median([pace.until_click(80, rng) for _ in range(500)]) > 20


def population(**settings: Any) -> Population:
    return Population(WORLD, PopulationSettings(**settings), 0)


def relevant() -> tuple[Any, Read]:
    """A question and an answer that shows an ad that fits it."""
    query = WORLD.train_queries[0]
    ad = WORLD.ads[WORLD.most_relevant(query, 5)[0]]
    return query, read(completion(ad.id, text=f"For {query.category} people like {{0}} best."))


def test_users_tire_of_an_ad_and_come_round_in_days() -> None:
    people = population(day_s=1.0)
    query, seen = relevant()
    first = sum(bool(people.clicks(query, seen, "", 100.0)) for _ in range(40))
    later = population(day_s=1.0)
    rested = sum(bool(later.clicks(query, seen, "", 100.0 + 50 * day)) for day in range(40))
    assert first < rested / 2


def test_answers_that_bother_people_cost_their_return() -> None:
    people = population()
    query, _ = relevant()
    before = np.mean([people.comes_back(query.profile) for _ in range(300)])
    far = WORLD.ads[WORLD.most_relevant(query, len(WORLD.ads))[-1]]
    bother = read(completion(far.id, far.id, text="Buy {0}! Buy {1}! Now!"))
    for turn in range(30):
        people.clicks(query, bother, "", float(turn))
    assert np.mean([people.comes_back(query.profile) for _ in range(300)]) < before - 0.1


def test_what_users_carry_outlives_a_restart(tmp_path: Path) -> None:
    people = population()
    query, seen = relevant()
    for turn in range(5):
        people.clicks(query, seen, "", float(turn))
    people.save(tmp_path / "state" / "users.json")
    again = population()
    again.load(tmp_path / "state" / "users.json")
    assert again.trust == people.trust != population().trust
    (tmp_path / "state" / "users.json").write_text("{")
    with pytest.raises(InputError, match=r"users.json"):
        population().load(tmp_path / "state" / "users.json")


def test_only_questions_that_train_are_asked() -> None:
    people = population()
    asked = {people.draw_query(people.draw_user()).id for _ in range(500)}
    assert asked <= {query.id for query in WORLD.train_queries}
    assert 0.85 < np.mean([people.consents(profile) for profile in WORLD.profiles]) < 0.95


@pytest.mark.parametrize("wrong", [{"consenting": 1.5}, {"day_s": 0.0}])
def test_settings_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="users"):
        PopulationSettings(**wrong)


def test_every_user_is_a_machine_of_their_own() -> None:
    addresses = {own_address(profile.id) for profile in WORLD.profiles}
    assert len(addresses) > 0.99 * len(WORLD.profiles)
    assert all(address.startswith("127.") for address in addresses)
