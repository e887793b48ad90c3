"""Versions that share a base in one process: interleaved answers, threads, adapters that are absent or too many."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inference.adapter_files import ADAPTER_WEIGHTS
from inference.models import resolve
from mechanism.errors import PolicyError
from mechanism.weights import ENTRY
from serving.policies import adapters
from serving.policies.adapters import LocalPolicies, SharedPolicies
from serving.policies.model import ModelPolicy, folder_digest
from serving.policies.protocol import AdapterAbsent, AnswerLimits, Completed, PolicyBackend, TextDelta
from tests.serving.policies.triton_site import context, plain
from tests.support.adapters import random_adapter

SHORT = AnswerLimits(max_tokens=20)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [random_adapter(tmp_path_factory.mktemp("adapter"), seed) for seed in (1, 2, 3)]


def answer(policy: PolicyBackend, seed: int) -> tuple[str, Completed]:
    *deltas, done = policy.stream(context(seed), seed, 2, SHORT)
    assert isinstance(done, Completed)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)), done


def test_answers_that_take_turns_are_those_of_each_version_alone(folders: list[Path]) -> None:
    shared = SharedPolicies.load("tiny")
    versions = [shared.base(), *(shared.adapter(folder) for folder in folders[:2])]
    # Not compared with merged weights: their logits round otherwise, which a draw can turn into another token.
    expected = [answer(version, 4) for version in versions]
    streams = [version.stream(context(4), 4, 2, SHORT) for version in versions]
    texts, ends = ["", "", ""], list[Completed | None]([None, None, None])
    while None in ends:
        for i, stream in enumerate(streams):
            event = next(stream, None)
            if isinstance(event, TextDelta):
                texts[i] += event.text
            elif event is not None:
                ends[i] = event
    assert texts == [text for text, _ in expected]
    assert len(set(texts)) == 3
    for end, version, (_, done) in zip(ends, versions, expected, strict=True):
        assert end is not None
        assert (end.digest, end.tokens) == (version.digest, done.tokens)
        assert end.logprob == pytest.approx(done.logprob)


def test_versions_in_threads_of_their_own_do_not_disturb_each_other(folders: list[Path]) -> None:
    local = LocalPolicies()
    versions = [local.open(str(folder)) for folder in folders]
    assert [version.digest for version in versions] == [folder_digest(folder) for folder in folders]
    expected = [answer(version, seed)[0] for seed in range(4) for version in versions]
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(answer, version, seed) for seed in range(4) for version in versions]
        assert [job.result()[0] for job in jobs] == expected


def test_adapters_of_one_base_are_opened_on_one_copy_of_it(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = ModelPolicy.load
    monkeypatch.setattr(ModelPolicy, "load", lambda name, digest="": loaded.append(name) or load(name, digest))
    local = LocalPolicies()
    versions = [local.open(str(folder)) for folder in folders]
    assert loaded == [resolve("tiny")]
    local.open("tiny")
    assert loaded[1:] == ["tiny"], "a model of its own"
    versions.clear()
    local.open(str(folders[0]))
    assert loaded[2:] == [resolve("tiny")], "no version was open any more"


def test_a_stream_that_is_closed_early_leaves_the_others_going(folders: list[Path]) -> None:
    shared = SharedPolicies.load("tiny")
    one, other = (shared.adapter(folder) for folder in folders[:2])
    whole = answer(other, 1)[0]
    begun, following = one.stream(context(1), 1, 2, SHORT), other.stream(context(1), 1, 2, SHORT)
    next(begun)
    first = next(following)
    begun.close()
    rest = [event.text for event in following if isinstance(event, TextDelta)]
    assert isinstance(first, TextDelta)
    assert first.text + "".join(rest) == whole


def test_idle_adapters_make_room_and_busy_ones_stay(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "KEPT", 2)
    shared = SharedPolicies.load("tiny")
    versions = [shared.adapter(folder) for folder in folders]
    expected = [answer(version, 2)[0] for version in versions]
    assert len(shared.loaded) == 2
    streams = [version.stream(context(2), 2, 2, SHORT) for version in versions]
    firsts = [next(stream) for stream in streams]
    assert len(shared.loaded) == 3, "all of them are writing"
    rests = ["".join(event.text for event in stream if isinstance(event, TextDelta)) for stream in streams]
    assert [first.text + rest for first, rest in zip(firsts, rests, strict=True)] == expected  # type: ignore[union-attr]


def test_an_adapter_that_is_not_there_or_has_other_weights_is_refused(folders: list[Path], tmp_path: Path) -> None:
    shared = SharedPolicies.load("tiny")
    with pytest.raises(AdapterAbsent, match="adapter 000000000000 is not on this server"):
        shared.adapter(tmp_path / "absent", "0" * 64)
    shutil.copytree(folders[0], tmp_path / "copy")
    # The entry of a registered one, whose weights were damaged since: no caller's fault, which an InputError is.
    (tmp_path / "copy" / ENTRY).write_text(json.dumps({"sha256": {ADAPTER_WEIGHTS: "0" * 64}, "created": "2026"}))
    with pytest.raises(PolicyError, match="adapter 000000000000 has weights"):
        shared.adapter(tmp_path / "copy", "0" * 64)
    assert answer(shared.base(), 1)[0] == answer(ModelPolicy.load("tiny"), 1)[0]


def test_a_context_that_is_refused_ends_its_own_answer_alone(folders: list[Path]) -> None:
    shared = SharedPolicies.load("tiny")
    version = shared.adapter(folders[0])
    long = plain(query="shoes " * 5_000)
    with pytest.raises(Exception, match="shorten"):
        list(version.stream(long, 1, 0))
    assert answer(version, 1)[0]
