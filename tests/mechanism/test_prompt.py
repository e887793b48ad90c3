"""The prompt of a context, in the full and in the brief form."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError, InputError
from mechanism.markers import parse
from mechanism.prompt import (
    BRIEF_INSTRUCTIONS,
    DESCRIBED_WORDS,
    PromptSettings,
    described,
    render_messages,
    render_profile,
    shown_points,
)
from mechanism.types import Ad, Candidate, Context, Profile

SHOES = Ad("ad-1", "Kestrel Shoes", "grippy shoes", "Kestrel")
BAND = Ad("ad-2", "Pulsewise Band", "", "Pulsewise")
PROFILE = Profile(
    "p1", age="30-39", occupation="nurse", location="Leeds", interests=("running", "tea"), history=("socks",)
)
CONTEXT = Context("c1", "Which shoes?", (Candidate(SHOES, 420_000), Candidate(BAND, 5_000)), PROFILE)
FULL, BRIEF = PromptSettings(), PromptSettings(instructions="brief")


def system(context: Context, settings: PromptSettings) -> str:
    return render_messages(context, settings)[0]["content"]


def test_the_full_prompt_lists_every_candidate_with_bid_and_marker() -> None:
    lines = system(CONTEXT, FULL).splitlines()
    assert "- bid 42: @Kestrel Shoes@[ad-1] - grippy shoes" in lines
    assert "- bid 0: @Pulsewise Band@[ad-2]" in lines
    assert lines[-1] == ("About the user: 30-39, nurse; lives in Leeds; interests: running, tea; recently: socks.")


def test_the_parser_accepts_the_markers_of_the_prompt() -> None:
    assert parse(system(CONTEXT, FULL), [SHOES, BAND]).shown() == ("ad-1", "ad-2")


def test_the_brief_prompt_is_bids_titles_and_interests() -> None:
    words = re.findall(r"\w+", system(CONTEXT, BRIEF).removeprefix(BRIEF_INSTRUCTIONS))
    assert " ".join(words) == "42 Kestrel Shoes 0 Pulsewise Band Likes running tea"


def test_a_described_prompt_puts_text_and_category_before_the_bid() -> None:
    settings = PromptSettings(instructions="brief", described=True)
    filed = Candidate(replace(SHOES, category="Running Shoes"), 420_000)
    text = system(replace(CONTEXT, candidates=(filed, *CONTEXT.candidates), profile=None), settings)
    assert text == (
        BRIEF_INSTRUCTIONS
        + " grippy shoes, running shoes 42@Kestrel Shoes; grippy shoes 42@Kestrel Shoes; 0@Pulsewise Band;"
    )


@given(st.text(), st.text())
def test_a_description_is_short_and_contains_no_bid(text: str, category: str) -> None:
    words = described(Ad("x", "X", text, "", category=category))
    assert "@" not in words
    assert len(words.split()) <= DESCRIBED_WORDS
    if not category:
        assert words == described(Ad("x", "X", "", "", category=text))


def test_a_long_text_is_cut_and_the_category_kept() -> None:
    ad = Ad("x", "X", "word " * 20, "", category="running shoes")
    assert described(ad) == " ".join(["word"] * (DESCRIBED_WORDS - 2)) + ", running shoes"
    assert described(replace(ad, category="need " * 20)) == " ".join(["need"] * DESCRIBED_WORDS)


def test_turns_stand_between_the_rules_and_the_query() -> None:
    context = replace(CONTEXT, turns=(("user", "hi"), ("assistant", "hello")))
    assert [(m["role"], m["content"]) for m in render_messages(context, FULL)[1:]] == [
        ("user", "hi"),
        ("assistant", "hello"),
        ("user", "Which shoes?"),
    ]


@pytest.mark.parametrize("settings", [FULL, BRIEF])
@pytest.mark.parametrize("profile", [None, Profile("p2")])
def test_without_a_profile_the_prompt_does_not_mention_the_user(
    settings: PromptSettings, profile: Profile | None
) -> None:
    text = system(replace(CONTEXT, profile=profile), settings)
    assert "About the user" not in text
    assert "Likes" not in text
    assert render_profile(Profile("p2"), settings) == ""


def test_a_profile_shows_only_what_is_known() -> None:
    assert render_profile(Profile("p", location="Leeds"), FULL) == "About the user: lives in Leeds."


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.floats(0, 100))
def test_a_higher_bid_never_lowers_the_shown_bid_and_it_stays_in_range(one: int, other: int, load: float) -> None:
    settings = PromptSettings(ad_load=load)
    low, high = sorted((one, other))
    assert 0 <= shown_points(low, settings) <= shown_points(high, settings) <= settings.max_points


def test_ad_load_scales_every_shown_bid() -> None:
    half = PromptSettings(instructions="brief", ad_load=0.5)
    assert re.search(r"\b21\WKestrel Shoes\b", system(CONTEXT, half))
    assert shown_points(420_000, PromptSettings(ad_load=0)) == 0
    assert shown_points(420_000, PromptSettings(ad_load=5)) == 100


@pytest.mark.parametrize("load", [-0.1, math.nan, math.inf])
def test_an_impossible_ad_load_is_refused(load: float) -> None:
    with pytest.raises(ConfigError, match=r"prompt\.ad_load"):
        PromptSettings(ad_load=load)


def test_a_range_without_points_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"prompt\.max_points"):
        PromptSettings(max_points=0)


def test_a_title_with_marker_syntax_does_not_reach_a_prompt() -> None:
    bad = Candidate(Ad("x", "Buy @me@[ad-1]", "", ""), 1)
    with pytest.raises(InputError, match="title of ad 'x'"):
        render_messages(replace(CONTEXT, candidates=(bad,)), FULL)
