"""The benchmark on real data: what it asks without a need, and its shipped configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.trainers.real import answered_by, plain_contexts
from mechanism.errors import ConfigError
from mechanism.markers import parse, render_marker
from mechanism.types import Context, Generation
from simulator.questions import split_questions
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import load_config, parse_config
from trainers.irpo.session import Session

REAL = Path(os.environ.get("LLM_AUCTION_WEBIS") or Path(__file__).parents[2] / ".." / "shared" / "data" / "webis")


@pytest.fixture
def session() -> Session:
    return Session(load_config("quick", ["world.candidates=3"]), RunDirectory("memory://real"))


def test_the_questions_are_held_out_and_have_offers_but_no_need(session: Session) -> None:
    contexts = plain_contexts(session, 5)
    training, held_out = split_questions()
    held = {q.text for q in held_out if q.need is None}
    assert len({c.query for c in contexts}) == 5
    assert {c.query for c in contexts} <= held
    assert not {c.query for c in contexts} & {q.text for q in training}
    assert [(len(c.candidates), c.category) for c in contexts] == [(3, "")] * 5


class Scripted:
    """Answers the questions in turn with the given raw texts."""

    def __init__(self, *raw: str) -> None:
        self.raw = iter(raw)

    def generate(self, contexts: Sequence[Context], samples: int, seed: int) -> list[list[Generation]]:
        [context], _ = contexts, samples
        answer = parse(next(self.raw), [c.ad for c in context.candidates])
        return [[Generation(answer, (1, 2, 3), -1.0)]]


def test_ads_and_tokens_of_the_answers_are_counted(session: Session) -> None:
    contexts = plain_contexts(session, 3)
    marker = render_marker(contexts[1].candidates[0].ad)
    found = answered_by(Scripted("Plain.", f"Try {marker}.", "Plain."), contexts)
    assert (found.answers, found.with_ads, found.tokens) == (3, 1, 9)
    assert found.seconds > 0


@pytest.mark.skipif(not REAL.is_dir(), reason="no folder at LLM_AUCTION_WEBIS or ../shared/data/webis")
def test_the_configuration_has_a_world() -> None:
    config = load_config("webis-assistant", [f"world.path={REAL}"])
    session = Session(config, RunDirectory("memory://real-world"))
    plain = [q for q in session.world.train_queries if not q.category]
    assert len(plain) / len(session.world.train_queries) == pytest.approx(config.world.plain, abs=0.01)
    assert len(plain_contexts(session, 2)[0].candidates) == config.world.candidates


def test_the_configuration_needs_a_folder_and_trains_an_adapter(tmp_path: Path) -> None:
    config = load_config("webis-assistant", [f"world.path={tmp_path}"])
    assert (config.base, config.world.kind, config.rollout.contexts) == ("assistant", "webis", 120)


def test_questions_without_a_need_are_for_imported_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"world\.plain belongs to the kinds of imported data"):
        parse_config("name: x", "x", ["base=tiny", "world.kind=everyday", "world.plain=0.1"])
