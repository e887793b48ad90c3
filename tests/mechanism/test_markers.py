"""The text that a reader sees of valid, faulty and harmless uses of the marker's characters."""

from __future__ import annotations

import pytest

from mechanism.errors import InputError
from mechanism.markers import (
    ALTERED_TITLE,
    FAULT_KINDS,
    MALFORMED,
    NESTED,
    UNKNOWN_AD,
    UNTERMINATED,
    MarkerRules,
    marker_body,
    parse,
    render_marker,
)
from mechanism.types import Ad, Insertion

SHOES = Ad("ad-1", "Kestrel Trail Shoes", "grippy", "Kestrel")
BAND = Ad("ad-12", "Pulsewise Band", "slim", "Pulsewise")
TWIN = Ad("ad-2", "Pulsewise Band", "slim, second seller", "Other")
ADS = (SHOES, BAND, TWIN)


def test_a_marker_is_title_then_id() -> None:
    assert render_marker(SHOES) == "@Kestrel Trail Shoes@[ad-1]"
    assert "@" + marker_body(SHOES) == render_marker(SHOES)


def test_valid_markers_become_titles_with_their_spans() -> None:
    raw = f"Try {render_marker(SHOES)} or the {render_marker(TWIN)}, or {render_marker(SHOES)} again."
    answer = parse(raw, ADS)
    assert answer.raw == raw
    assert answer.text == "Try Kestrel Trail Shoes or the Pulsewise Band, or Kestrel Trail Shoes again."
    assert answer.insertions == (Insertion("ad-1", 4, 23), Insertion("ad-2", 31, 45), Insertion("ad-1", 50, 69))
    assert answer.shown() == ("ad-1", "ad-2")
    assert answer.faults == ()


@pytest.mark.parametrize("before", ["word", "@", "@[", "@x@[y", "[", "@lost ", "a@b.de ", "@Kestrel Trail Shoes@[ad-1"])
def test_a_valid_marker_survives_any_text_before_it(before: str) -> None:
    answer = parse(before + render_marker(BAND) + " and more", ADS)
    assert answer.shown() == ("ad-12",)
    assert answer.text.endswith("Pulsewise Band and more")


@pytest.mark.parametrize(
    ("raw", "text", "kind"),
    [
        ("Buy @Acme Pills@[zz-9] now", "Buy now", UNKNOWN_AD),
        ("Buy @Pulsewise Band@[ad-9] now", "Buy now", UNKNOWN_AD),
        ("Buy @kestrel trail shoes@[ad-1] now", "Buy now", ALTERED_TITLE),
        ("Buy @Kestrel Trail Shoes!@[ad-1] now", "Buy now", ALTERED_TITLE),
        ("Buy @Kestrel Trail Shoes@[ad-2] now", "Buy now", ALTERED_TITLE),
        ("Buy @ Kestrel Trail Shoes@[ad-1] now", "Buy now", ALTERED_TITLE),
        ("Buy @Kestrel Trail Shoes@[ad-1 ] now", "Buy now", UNKNOWN_AD),
        ("Buy @[ad-1] now", "Buy now", MALFORMED),
        ("Buy @@[ad-1] now", "Buy now", MALFORMED),
        ("Buy shoes [ad-1] now", "Buy shoes now", MALFORMED),
        ("Buy @Kestrel Trail Shoes now\nend", "Buy Kestrel Trail Shoes now\nend", MALFORMED),
        ("Buy @Kestrel Trail Shoes@[ad-1 now\nend", "Buy now\nend", MALFORMED),
        ("Buy @Kestrel @Acme\nend", "Buy Kestrel Acme\nend", NESTED),
        ("Buy @Kestrel Trail Sh", "Buy ", UNTERMINATED),
        ("Buy @Kestrel Trail Shoes", "Buy ", UNTERMINATED),
        ("Buy @Kestrel Trail Shoes@", "Buy ", UNTERMINATED),
        ("Buy @Kestrel Trail Shoes@[ad", "Buy ", UNTERMINATED),
        ("Buy @Acme Pills@[zz", "Buy ", UNTERMINATED),
        ("Buy @Acme", "Buy Acme", UNTERMINATED),
        ("Buy @", "Buy ", UNTERMINATED),
        ("Buy shoes [ad-", "Buy shoes ", UNTERMINATED),
    ],
)
def test_a_faulty_marker_leaves_no_syntax_and_no_foreign_title(raw: str, text: str, kind: str) -> None:
    answer = parse(raw, ADS)
    assert answer.text == text
    assert answer.insertions == ()
    assert answer.faults[0].kind == kind
    assert kind in FAULT_KINDS


def test_ids_and_titles_past_the_look_ahead_lose_their_syntax() -> None:
    assert parse("a @T@[" + "y" * 70 + " b", ADS).text == "a " + "y" * 6 + " b"
    assert parse("a @" + "t" * 81 + "@[ad-1] b", ADS).text == "a " + "t" * 81 + " b"
    assert parse("a @" + "t" * 80 + "@[ad-1] b", ADS).text == "a b"


def test_a_marker_inside_a_marker_shows_only_the_valid_one() -> None:
    answer = parse(f"Buy @Acme {render_marker(SHOES)} Pills@[zz-9]!", ADS)
    assert answer.text == "Buy Acme Kestrel Trail Shoes Pills!"
    assert [f.kind for f in answer.faults] == [NESTED, MALFORMED]
    assert [f.at for f in answer.faults] == [4, 43]


def test_removals_cannot_join_a_bracketed_id() -> None:
    assert "[ad-1]" not in parse("so [@x@[y]ad-1] it is", ADS).text
    assert "[ad-1]" not in parse("so [[ad-1]ad-1] it is", ADS).text


@pytest.mark.parametrize(
    "text",
    [
        "Write to bob@example.com or ann.lee@mail.example.org today.",
        "See you @ 5pm, or later",
        "Ask @the_weather or @nasa about it, not me@home.example",
        "Use it like this:\n@dataclass\nclass A: ...\n@pytest.fixture\ndef f(): ...",
        "npm install @angular/core and call @Component({}) then",
        "A list [1], an index a[0], [ad-9] and a ] and a [",
        "Costs < 5 & > 3 *bold*  with  double blanks ",
        "",
    ],
)
def test_harmless_text_is_left_alone(text: str) -> None:
    answer = parse(text, ADS)
    assert answer.text == text
    assert answer.faults == ()


def test_a_harmless_shape_that_begins_a_candidates_title_is_not_harmless() -> None:
    shop = Ad("s1", "example.com Store", "", "Example")
    assert parse("mail bob@example.com Store for more\n", [shop]).text == "mail bobexample.com Store for more\n"
    assert parse("@ example\n", [shop]).text == "example\n"


def test_every_decision_needs_at_most_the_look_ahead() -> None:
    rules = MarkerRules(ADS)
    for raw in ("@" + "x" * 200, "@T@[" + "y" * 200, "@" + "x" * 80 + "@[" + "y" * 200):
        assert rules.decide(raw[: rules.look_ahead + 1], 0, final=False) is not None
    assert rules.decide("@Kest", 0, final=False) is None


def test_blanks_around_a_removed_marker_become_one_blank() -> None:
    assert parse("a @x@[y]  b", ADS).text == "a b"
    assert parse("@x@[y] Hello", ADS).text == "Hello"
    assert parse("a@x@[y]b", ADS).text == "ab"


@pytest.mark.parametrize("title", ["", " x", "x ", "a@b", "a[b", "a]b", "a\nb"])
def test_ads_that_no_marker_can_carry_are_refused(title: str) -> None:
    with pytest.raises(InputError, match="title of ad"):
        parse("hello", [Ad("a", title, "", "")])
    with pytest.raises(InputError, match="title of ad"):
        render_marker(Ad("a", title, "", ""))


def test_bad_or_shared_ids_are_refused() -> None:
    for ad_id in ("", "a b", "a]"):
        with pytest.raises(InputError, match="ad id"):
            MarkerRules([Ad(ad_id, "T", "", "")])
    with pytest.raises(InputError, match="its own id"):
        MarkerRules([SHOES, Ad("ad-1", "Another", "", "")])
    assert parse(render_marker(SHOES), [SHOES, SHOES]).shown() == ("ad-1",)
