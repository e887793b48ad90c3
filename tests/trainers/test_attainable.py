"""The best attainable answer as a method of the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from mechanism.errors import ConfigError
from mechanism.objective import reward
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import parse_config
from trainers.evaluation.attainable import attainable
from trainers.evaluation.methods import with_ids
from trainers.irpo.session import Session


def session(folder: Path, *settings: str) -> Session:
    return Session(parse_config("name: small", "test", settings), RunDirectory(folder))


def test_it_finds_an_answer_to_a_test_context_under_any_numbering(tmp_path: Path) -> None:
    own = session(tmp_path, "world.candidates=8")
    search = attainable(own)
    for context in with_ids(own.test_contexts(3)):
        found = search(context)
        rates = own.truth.probabilities(context, found.generation.answer)
        assert reward(found.generation.answer, context.bids(), rates, own.penalty) >= 0.0
        assert found.click_prices == context.bids()
        assert found.generations == 0


def test_it_knows_the_language_of_the_built_in_world_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"world\.kind"):
        attainable(session(tmp_path, "world.kind=webis", f"world.path={tmp_path}"))
