"""Phases that several machines share: what each of them does, and that the parts make the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.exits import EXIT_BAD_INPUT
from cli.main import app
from mechanism.errors import ConfigError
from trainers.artifacts.run_directory import RunDirectory
from trainers.artifacts.sampled import read_sampled
from trainers.config import load_config
from trainers.irpo.phases import ANSWERS
from trainers.irpo.worlds import ContextSource, build_world
from trainers.optimisation.sharding import Part, part_of


def test_a_part_is_read_from_options() -> None:
    assert part_of("", "", "", "") == Part()
    assert part_of("2/4", "", "", "") == Part(shards=4, shard=2)
    assert part_of("all/4", "", "", "") == Part(shards=4)
    assert part_of("0/1", "", "", "") == Part()
    assert part_of("", "1/2", "a:1", "b") == Part(nodes=2, node=1, meeting="a:1", address="b")
    assert [p.leads for p in (Part(), Part(shards=4), Part(shards=4, shard=0), Part(nodes=2, node=1))] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("4/4", "", "", ""), "count from 0"),
        (("x", "", "", ""), "write 0/4"),
        (("", "all/2", "a:1", "b"), "write 0/4"),
        (("", "0/2", "", ""), "--meet HOST:PORT"),
        (("0/2", "0/2", "a:1", "b"), "shards or nodes"),
    ],
)
def test_a_part_that_cannot_be_is_refused(options: tuple[str, str, str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        part_of(*options)


CONFIG = """
name: parts
epochs: 1
world: {kind: builtin, candidates: 4}
feedback: {contexts: 2, answers: 1}
rollout: {contexts: 5, samples: 2, max_new_tokens: 24}
evaluation: {validation: 2}
"""


def train(config: Path, run: Path, *options: str) -> int:
    arguments = ["train", str(config), "--out", str(run), "--epoch", "1", "--wait", "1", *options]
    return CliRunner().invoke(app, arguments).exit_code


@pytest.mark.timeout(300)
def test_shards_of_the_rollouts_become_one(tmp_path: Path) -> None:
    config, run, outcome = tmp_path / "parts.yaml", tmp_path / "run", tmp_path / "outcome.json"
    config.write_text(CONFIG, encoding="utf-8")
    directory = RunDirectory(run)
    assert train(config, run, "--phase", "rollouts", "--shard", "all/2") == EXIT_BAD_INPUT, "no shard is there yet"
    for shard in ("1/2", "0/2", "0/2"):  # one of them twice: a finished shard is not repeated
        with directory.lock():  # a shard does not hold the run
            assert train(config, run, "--phase", "rollouts", "--shard", shard) == 0
    assert not directory.phase("rollouts", 1).finished()
    assert train(config, run, "--phase", "rollouts", "--shard", "all/2", "--outcome", str(outcome)) == 0
    assert json.loads(outcome.read_text()) == {"found": "10 answers to 5 contexts from 2 shards"}

    settings = load_config(str(config))
    source = ContextSource(build_world(settings.world), settings.world, settings.seed, settings.evaluation.validation)
    wanted = [context.id for context in source.training(5, 1, 4)]
    whole = read_sampled(directory.phase("rollouts", 1).fetch() / ANSWERS)
    assert [item.context.id for item in whole] == wanted
    first = [item.generations for item in read_sampled(directory.phase("rollouts-0-of-2", 1).fetch() / ANSWERS)]
    assert [item.generations for item in whole[::2]] == first


def test_a_shard_of_another_phase_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "parts.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    assert train(config, tmp_path / "run", "--phase", "pairs", "--shard", "0/2") == EXIT_BAD_INPUT
