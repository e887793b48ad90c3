"""Answers that a crashed phase had already sampled are kept, and the others are those that it would have sampled."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from inference import policy as policies
from inference import sampling
from mechanism.types import Context, Generation
from tests.inference.conftest import byte_tokenizer, make_context, random_policy
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import RunConfig
from trainers.irpo.answering import answers_in_chunks
from trainers.irpo.phases import SHARED
from trainers.irpo.session import Session
from trainers.rollout.engine import TransformersEngine

CONTEXTS = [make_context(query=f"Which shoes are good for {n} miles?", name=f"q{n}") for n in range(4)]


class CrashError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    random_policy(byte_tokenizer(words=True)).save(folder)
    return folder


@pytest.fixture(params=["path", "memory", "s3"])
def open_session(request: pytest.FixtureRequest, base: Path, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Opens the same run again, as another machine would."""
    made: dict[str, Callable[[], str]] = {
        "path": lambda: str(tmp_path / "run"),
        "memory": lambda: f"memory://{uuid.uuid4().hex}/run",
        "s3": lambda: str(request.getfixturevalue("new_bucket")()) + "/run",
    }
    url, settings = made[request.param](), {"name": "chunks", "base": str(base)}

    def opened(**changes: Any) -> Session:
        cache = tmp_path / uuid.uuid4().hex
        return Session(RunConfig.model_validate({**settings, **changes}), RunDirectory(url, cache))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "ROW_COLUMNS", 1)  # each context is a batch
        yield opened


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Count the decoding batches; the one after `until` crashes."""
    counts = {"batches": 0.0, "until": float("inf")}

    def counted(*arguments: Any) -> Any:
        if counts["batches"] >= counts["until"]:
            raise CrashError
        counts["batches"] += 1
        return sampling.decode(*arguments)

    monkeypatch.setattr(policies, "decode", counted)
    return counts


def answer(session: Session, contexts: Sequence[Context] = CONTEXTS, seed: int = 5) -> list[list[Generation]]:
    phase = session.run.phase("rollouts", 1)
    return answers_in_chunks(session, phase, 0, contexts, 2, seed, engine=session.engine)


def test_a_phase_that_crashes_goes_on_after_its_last_whole_batch(
    open_session: Callable[..., Session], decoded: dict[str, float]
) -> None:
    session = open_session()
    expected = session.policy(0).generate(CONTEXTS, 2, 5)
    decoded.update(batches=0, until=3)
    with pytest.raises(CrashError):
        answer(session)
    decoded.update(batches=0, until=float("inf"))
    assert answer(open_session()) == expected, "not one bit differs"
    assert decoded["batches"] == 1
    assert answer(open_session()) == expected
    assert decoded["batches"] == 1, "all batches were kept"

    resumed = open_session()
    SHARED["rollouts"].remove_chunks(resumed, 1)
    assert [name for name in resumed.run.store.children("epoch-001") if "chunks" in name] == []
    SHARED["rollouts"].remove_chunks(resumed, 1)


@pytest.mark.parametrize("open_session", ["path"], indirect=True)
def test_answers_to_another_question_are_not_taken_up(
    open_session: Callable[..., Session], decoded: dict[str, float], tmp_path: Path
) -> None:
    answer(open_session())
    other = random_policy(byte_tokenizer(words=True), seed=1)
    other.save(tmp_path / "other")
    for session, changes in (
        (open_session(), {"seed": 6}),
        (open_session(), {"contexts": CONTEXTS[:3]}),
        (open_session(sampling_precision="bfloat16"), {}),
        (open_session(base=str(tmp_path / "other")), {}),
    ):
        decoded["batches"] = 0
        found = answer(session, **changes)
        assert decoded["batches"] == len(found)


class OtherEngine(TransformersEngine):
    """Divides the contexts into batches of its own."""

    name = "other"


@pytest.mark.parametrize("open_session", ["path"], indirect=True)
def test_batches_of_another_engine_are_not_taken_up(
    open_session: Callable[..., Session], decoded: dict[str, float]
) -> None:
    session = open_session()
    answers_in_chunks(session, session.run.phase("rollouts", 1), 0, CONTEXTS, 2, 5, engine=OtherEngine())
    decoded["batches"] = 0
    assert len(answer(open_session())) == decoded["batches"] == len(CONTEXTS)
