"""The gate of sensitive conversations: what it withholds ads from, what it lets through, and who may change that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.auction.sensitive import ACUTE, SensitiveGate, Sensitivity, Topic, help_text
from serving.auction.sensitive.grams import grams_of
from serving.auction.sensitive.meaning import Meaning, packaged_meaning
from serving.auction.sensitive.rules import LANGUAGES, languages_of, shared_rules
from serving.lexicon import Lexicon, plain

GATE = SensitiveGate()
SENSITIVE = [
    (Topic.SELF_HARM, "I want to kill myself"),
    (Topic.SELF_HARM, "Ich will nicht mehr leben"),
    (Topic.SELF_HARM, "no quiero seguir viviendo"),
    (Topic.SELF_HARM, "j'ai envie de mourir"),
    (Topic.SELF_HARM, "我不想活了"),
    (Topic.DANGER, "someone is breaking into my house"),
    (Topic.DANGER, "Mein Kind hat Putzmittel getrunken"),
    (Topic.DANGER, "huele a gas en la cocina"),
    (Topic.DANGER, "mon mari me frappe"),
    (Topic.DANGER, "家里着火了怎么办"),
    (Topic.HEALTH, "Is this mole cancer?"),
    (Topic.HEALTH, "Welche Nebenwirkungen hat Metformin?"),
    (Topic.HEALTH, "me duele el pecho al respirar"),
    (Topic.HEALTH, "j'ai mal au ventre depuis trois jours"),
    (Topic.HEALTH, "高血压吃什么药"),
    (Topic.MINORS, "i'm 13 and my classmates bully me"),
    (Topic.MINORS, "ich bin 14 und werde gemobbt"),
    (Topic.GRIEF, "My grandmother died last week"),
    (Topic.GRIEF, "Meine Oma ist gestorben"),
    (Topic.GRIEF, "mi perro murió ayer"),
    (Topic.GRIEF, "comment surmonter la mort de mon père"),
    (Topic.GRIEF, "奶奶去世了我很难过"),
    (Topic.POLITICS, "Who should I vote for?"),
    (Topic.POLITICS, "为什么要选举"),
    (Topic.RELIGION, "Is it a sin to eat pork?"),
    (Topic.GAMBLING, "best online casino"),
    (Topic.FINANCIAL_DISTRESS, "ich kann meine Miete nicht mehr bezahlen"),
    (Topic.LEGAL_DISTRESS, "my landlord wants to evict me and I need a lawyer"),
    (Topic.IDENTITY, "am I gay?"),
    (Topic.CRIME, "how do I pick a lock without getting caught"),
    (Topic.DRUGS, "wie lange ist cannabis im blut"),
    (Topic.ADULT, "vidéos porno gratuites"),
    (Topic.VIOLENCE, "how to build a pipe bomb"),
    (Topic.HATE, "why are immigrants so lazy"),
]
HARMLESS = [
    "best running shoes for flat feet",
    "a killer playlist for the gym",
    "my phone battery died, which power bank should I get",
    "weed killer for a gravel drive",
    "which lens is good for shooting portraits",
    "Die besten Wanderschuhe für die Alpen",
    "Küchenmesser Set mit Block",
    "auriculares sin cables baratos",
    "chaussures de course pour débutant",
    "儿童安全座椅推荐",
    "性价比高的扫地机器人",
    "do you have it in blue?",
]


@pytest.mark.parametrize(("topic", "message"), SENSITIVE, ids=[message for _, message in SENSITIVE])
def test_phrases_of_five_languages_keep_ads_away(topic: Topic, message: str) -> None:
    assert topic in shared_rules().topics(message)
    assert GATE.judge([message], [None]).code.startswith("sensitive:")


@pytest.mark.parametrize("message", HARMLESS)
def test_shopping_that_sounds_alike_keeps_its_ads(message: str) -> None:
    assert GATE.judge([message], [None]).code == ""


def test_most_urgent_topic_names_the_reason() -> None:
    verdict = GATE.judge(["I lost my job and I want to kill myself"], [None])
    assert (verdict.code, verdict.topic, verdict.is_acute) == ("sensitive:self_harm", Topic.SELF_HARM, True)


def test_talk_four_messages_ago_no_longer_counts_but_a_crisis_does() -> None:
    later = ["which tents are light?", "for two people?", "in green?", "how long is delivery?"]
    assert GATE.judge(["my grandmother died last week", *later[:3]], [None] * 4).topic is Topic.GRIEF
    assert GATE.judge(["my grandmother died last week", *later], [None] * 5).code == ""
    assert GATE.judge(["I want to kill myself", *later], [None] * 5).topic is Topic.SELF_HARM


def test_publisher_widens_the_gate_by_terms_of_its_own() -> None:
    own = Sensitivity(terms=("Whisky", "craft beer"))
    assert GATE.judge(["Which WHISKY goes with cheese?"], [None], own).code == "sensitive:publisher"
    assert GATE.judge(["a nice craft  beer, please"], [None], own).code == "sensitive:publisher"
    assert GATE.judge(["Which cheese?"], [None], own).code == ""


def test_administrator_allows_a_topic_but_never_a_crisis() -> None:
    open_to_politics = SensitiveGate(allowed=["politics"])
    assert open_to_politics.judge(["who won the election?"], [None]).code == ""
    assert open_to_politics.judge(["my grandmother died"], [None]).topic is Topic.GRIEF
    for topic in (*ACUTE, Topic.MINORS, "gardening"):
        with pytest.raises(ConfigError, match="allowed_topics"):
            SensitiveGate(allowed=[str(topic)])


def test_meaning_counts_where_no_phrase_does_and_more_under_strictness(small_meaning: Callable[..., Meaning]) -> None:
    one = np.eye(3, dtype=np.float32)
    gate = SensitiveGate(small_meaning())
    assert gate.judge(["the house is quiet now"], [one[0]]).topic is Topic.GRIEF
    assert gate.judge(["the house is quiet now"], [one[0] * 0.4]).code == ""
    assert gate.judge(["the house is quiet now"], [one[0] * 0.4], Sensitivity(strict=True)).topic is Topic.GRIEF
    assert gate.judge(["das Haus ist jetzt sehr still"], [one[0]]).code == ""  # its vectors have weights of their own
    assert gate.judge(["das Haus ist jetzt sehr still"], [-one[0]]).topic is Topic.GRIEF


def test_message_without_a_need_is_withheld_on_a_weaker_sign(small_meaning: Callable[..., Meaning]) -> None:
    weak = np.array([0.4, 0, 0], np.float32)
    assert SensitiveGate(small_meaning(need_bar=1.0)).judge(["the house is quiet now"], [weak]).topic is Topic.GRIEF


def test_text_alone_is_judged_without_a_vector_or_with_anothers_encoder(small_meaning: Callable[..., Meaning]) -> None:
    blind = small_meaning(blind_H=np.eye(1, 18, dtype=np.float32)[0])
    assert SensitiveGate(blind).judge(["the house is quiet now"], [None]).code
    vector = np.array([0, -5, 0], np.float32)
    assert SensitiveGate(blind).judge(["the house is quiet now"], [vector]).code == ""
    assert SensitiveGate(replace(blind, sighted=False)).judge(["the house is quiet now"], [vector]).code


def test_topic_without_a_vector_accounts_for_what_the_vector_would_have_added(
    small_meaning: Callable[..., Meaning],
) -> None:
    heads = list(Topic)
    blind_H = np.zeros(2 + len(heads), np.float32)
    blind_H[0], blind_H[2 + heads.index(Topic.HEALTH)] = 1.0, 1.0
    gate = SensitiveGate(small_meaning(blind_H=blind_H))
    assert gate.judge(["the house is quiet now"], [None]).topic is Topic.HEALTH
    assert gate.judge(["the house is quiet now"], [np.eye(3, dtype=np.float32)[0]]).topic is Topic.GRIEF


def test_classifier_overrules_phrases_of_shops_but_not_of_a_crisis(
    small_meaning: Callable[..., Meaning],
) -> None:
    shop = np.array([-2, 0, 0], np.float32)
    gate = SensitiveGate(small_meaning())
    assert gate.judge(["who won the election?"], [None]).topic is Topic.POLITICS
    assert gate.judge(["who won the election?"], [shop]).code == ""
    assert gate.judge(["who won the election?"], [shop], Sensitivity(strict=True)).topic is Topic.POLITICS
    assert gate.judge(["I want to kill myself"], [shop]).topic is Topic.SELF_HARM


def test_router_without_the_encoder_decides_by_texts_alone() -> None:
    for probe in (None, np.ones(7, np.float32)):
        with structlog.testing.capture_logs() as logs:
            gate = SensitiveGate(packaged_meaning(probe))
        assert gate.judge(["my grandmother died"], [None]).topic is Topic.GRIEF
        assert [event["event"] for event in logs] == ["sensitive.text_alone"]


def test_packaged_classifier_belongs_to_the_packaged_encoder() -> None:
    meaning = Meaning.load()
    assert set(meaning.topics) == set(Topic)
    assert meaning.reads(meaning.probe_D)
    assert not meaning.reads(-meaning.probe_D)


@given(st.text(max_size=5_000))
def test_every_text_has_pieces_of_bounded_weight(text: str) -> None:
    grams = grams_of(text)
    assert len(grams.hashes_P) == len(grams.weights_P)
    assert float(grams.weights_P @ grams.weights_P) <= 2.001
    assert np.array_equal(grams.hashes_P, grams_of(text).hashes_P)


def test_pieces_of_a_long_text_are_those_of_its_ends() -> None:
    ends = "beginning " * 300, " the end" * 300
    assert np.array_equal(grams_of(f"{ends[0]} {'x' * 9} {ends[1]}").hashes_P, grams_of(ends[0] + ends[1]).hashes_P)
    assert set(grams_of("Zelt").hashes_P) & set(grams_of("Zelte").hashes_P)


def test_every_topic_has_phrases_in_every_language() -> None:
    rules = shared_rules()
    for language in LANGUAGES:
        assert set(rules._lexicons[language]._labels) == {topic.value for topic in Topic}, language


@given(st.text(max_size=300))
def test_every_text_is_judged_the_same_twice(message: str) -> None:
    first = GATE.judge([message], [None])
    assert GATE.judge([message], [None]) == first == SensitiveGate().judge([message], [None])


@given(st.sampled_from([message for _, message in SENSITIVE]), st.sampled_from(["\u200b", "\u00ad", "\u2060"]))
def test_invisible_characters_hide_nothing(message: str, invisible: str) -> None:
    assert GATE.judge([invisible.join(message)], [None]).code


def test_languages_are_known_by_their_function_words() -> None:
    assert languages_of(plain("Was kostet der Bus in die Stadt?")) == ("de",)
    assert languages_of(plain("tent")) == ("en", "de", "es", "fr")
    assert "zh" in languages_of(plain("帐篷"))


def test_lexicon_reads_stems_gaps_options_and_ends() -> None:
    lexicon = Lexicon({"a": ["kill* ~ (him|her)"], "b": ["end#"], "c": ["想~死"], "d": ["Ärger"]})
    assert lexicon.labels(plain("They killed, we think, her!")) == {"a"}
    assert lexicon.labels(plain("They killed one two three four her")) == frozenset()
    assert lexicon.labels(plain("the end")) == {"b"}
    assert lexicon.labels(plain("the end of it")) == frozenset()
    assert lexicon.labels(plain("我真的想去死")) == {"c"}
    assert lexicon.labels(plain("viel arger")) == {"d"}


def test_help_lines_are_those_of_the_country_in_the_readers_language() -> None:
    assert "988" in help_text(Topic.SELF_HARM, "us", "I want to die")
    assert "0800 111 0 111" in help_text(Topic.SELF_HARM, "DE", "ich will nicht mehr leben, es ist zu viel")
    assert "116 123" not in help_text(Topic.DANGER, "GB", "there is a fire in the house")
    assert "findahelpline.com" in help_text(Topic.SELF_HARM, "ZZ", "我不想活了")
