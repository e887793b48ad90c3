"""Phases that several machines share: what each of them does, and that the parts make the whole."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.exits import EXIT_BAD_INPUT, EXIT_GUARD
from cli.main import app
from cli.train import run_training
from mechanism.errors import ConfigError
from trainers.artifacts.run_directory import RunDirectory
from trainers.artifacts.sampled import read_sampled
from trainers.config import load_config
from trainers.config.schema import JudgeConfig
from trainers.irpo import answer_phases, phases
from trainers.irpo.answer_phases import ANSWERS
from trainers.irpo.pairs_phase import GROUPS
from trainers.irpo.session import Session
from trainers.optimisation.groups import read_rows
from trainers.optimisation.sharding import ALONE, Part, merged, part_of, shards_of


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


@pytest.mark.parametrize(("count", "shards"), [(0, 2), (1, 3), (7, 3), (6, 2)])
def test_shares_are_merged_in_the_order_of_the_whole(count: int, shards: int) -> None:
    items = list(range(count))
    assert merged([part.share(items) for part in shards_of(shards)]) == items
    assert [part.folder("pairs") for part in shards_of(2)] == ["pairs-0-of-2", "pairs-1-of-2"]
    assert ALONE.folder("pairs") == "pairs"
    assert len({part.seed(7) for part in shards_of(shards)}) == shards


def test_shares_of_different_lists_are_refused() -> None:
    with pytest.raises(ConfigError, match="one configuration"):
        merged([[0, 2, 4, 6], [1, 3]])


CONFIG = """
name: parts
base: {base}
epochs: 1
world: {{kind: builtin, candidates: 4}}
feedback: {{contexts: 5, answers: 2}}
reward: {{source: oracle}}
rollout: {{contexts: 12, samples: 3, temperature: 1.0, new_titles: 0.4}}
preference: {{delta: 0.05}}
optimisation: {{learning_rate: 1.0e-3, batch: 4, batch_per_process: 4, precision: float32}}
guards: {{min_ads_per_answer: 0, max_kl_to_base: 1.0e+6, reward_hacking_drop: 1.0e+6}}
evaluation: {{validation: 7}}
"""
"""Sampled only where `rollout.temperature` counts: elsewhere the base takes its best token."""


@pytest.fixture(scope="module")
def config(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    shutil.copytree(small_base, folder / "greedy")
    settings = json.loads((folder / "greedy" / "policy.json").read_text())
    settings["sampling"]["temperature"] = 0.0
    (folder / "greedy" / "policy.json").write_text(json.dumps(settings))
    (folder / "parts.yaml").write_text(CONFIG.format(base=folder / "greedy"))
    return folder / "parts.yaml"


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    run = tmp_path_factory.mktemp("whole") / "run"
    run_training(load_config(str(config)), str(run))
    return run


def train(config: Path, run: Path, *options: str) -> int:
    arguments = ["train", str(config), "--out", str(run), "--epoch", "1", "--wait", "1", *options]
    return CliRunner().invoke(app, arguments).exit_code


def without(run: Path, target: Path, *names: str) -> RunDirectory:
    """Copy a run as it was before it had published these."""
    shutil.copytree(run, target)
    for name in names:
        shutil.rmtree(target / name) if (target / name).is_dir() else (target / name).unlink()
    return RunDirectory(target)


def test_the_last_shard_of_the_rollouts_merges_all(config: Path, whole: Path, tmp_path: Path) -> None:
    run, outcome = tmp_path / "run", tmp_path / "outcome.json"
    directory = without(whole, run, "epoch-001")
    assert train(config, run, "--phase", "rollouts", "--shard", "all/2") == EXIT_BAD_INPUT, "no shard is there yet"
    for shard in ("1/2", "1/2", "0/2"):  # one of them twice: a finished shard is not repeated
        assert not directory.phase("rollouts", 1).finished()
        with directory.lock():  # a shard does not hold the run
            outcome.unlink(missing_ok=True)
            assert train(config, run, "--phase", "rollouts", "--shard", shard, "--outcome", str(outcome)) == 0
            assert ("found" in json.loads(outcome.read_text())) == (shard == "0/2"), "the last one reports"
    assert json.loads(outcome.read_text())["found"].startswith("36 answers to 12 contexts")

    merged_rollouts = read_sampled(directory.phase("rollouts", 1).fetch() / ANSWERS)
    alone = read_sampled(whole / "epoch-001" / "rollouts" / ANSWERS)
    assert [item.context for item in merged_rollouts] == [item.context for item in alone], "bids and titles as well"
    assert [item.generations for item in merged_rollouts] != [item.generations for item in alone]
    first = [item.generations for item in read_sampled(directory.phase("rollouts-0-of-2", 1).fetch() / ANSWERS)]
    assert [item.generations for item in merged_rollouts[::2]] == first
    assert not list(run.glob("epoch-001/*.chunks"))


def test_shards_that_a_kill_kept_from_being_merged_are_merged_later(config: Path, whole: Path, tmp_path: Path) -> None:
    for again in ("0/2", "all/2"):
        directory = without(whole, tmp_path / again.replace("/", "-"), "epoch-001")
        run = Path(directory.url)
        for shard in ("0/2", "1/2"):
            assert train(config, run, "--phase", "rollouts", "--shard", shard) == 0
        published = (run / "epoch-001" / "rollouts" / ANSWERS).read_bytes()
        shutil.rmtree(run / "epoch-001" / "rollouts")
        assert train(config, run, "--phase", "rollouts", "--shard", again) == 0
        assert (run / "epoch-001" / "rollouts" / ANSWERS).read_bytes() == published


def test_clicks_of_shards_are_those_of_one_feedback(config: Path, tmp_path: Path) -> None:
    learned = tmp_path / "learned.yaml"
    learned.write_text(config.read_text().replace("source: oracle", "source: learned"))
    for run, shards in ((tmp_path / "one", ["0/1"]), (tmp_path / "three", ["2/3", "0/3", "1/3"])):
        for shard in shards:
            assert train(learned, run, "--phase", "feedback", "--shard", shard) == 0
    one, three = (read_sampled(tmp_path / run / "epoch-001" / "feedback" / ANSWERS) for run in ("one", "three"))
    assert [item.context for item in three] == [item.context for item in one]
    for item, other in zip(three, one, strict=True):  # greedy answers do not depend on the seeds, clicks do
        assert [g.answer for g in item.generations] == [g.answer for g in other.generations]
        shown = [set(g.answer.shown()) for g in item.generations]
        assert [set(clicks) for clicks in item.clicks or ()] == shown


def test_shards_of_the_pairs_become_the_groups_of_one_process(config: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    without(whole, run, "epoch-001/pairs")
    for shard in ("0/3", "2/3", "1/3"):
        assert train(config, run, "--phase", "pairs", "--shard", shard) == 0
    rows, alone = (read_rows(folder / "epoch-001" / "pairs" / GROUPS) for folder in (run, whole))
    assert len(alone) > 3
    for row, other in zip(rows, alone, strict=True):
        assert row.pop("reference_logprobs") == pytest.approx(other.pop("reference_logprobs"), abs=1e-3)
        assert row == other


def test_a_share_without_pairs_is_published_and_all_without_pairs_is_a_guard(
    config: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    without(whole, run, "epoch-001/pairs", "config.yaml")
    greedy = tmp_path / "strict.yaml"
    greedy.write_text(config.read_text().replace("delta: 0.05", "delta: 1000.0"))
    assert train(greedy, run, "--phase", "pairs", "--shard", "1/13") == 0
    assert train(greedy, run, "--phase", "pairs", "--shard", "12/13") == 0, "no context at all"
    assert [train(greedy, run, "--phase", "pairs", "--shard", shard) for shard in ("0/2", "1/2")] == [0, EXIT_GUARD]


def test_shards_of_the_evaluation_become_the_figures_of_one_process(config: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    without(whole, run, *(f"epoch-00{e}/{name}.json" for e in (0, 1) for name in ("evaluation", "validation")))
    for shard in ("1/2", "0/2"):
        assert train(config, run, "--phase", "evaluation", "--shard", shard) == 0
    for epoch in ("epoch-000", "epoch-001"):
        assert (run / epoch / "validation.json").read_text() == (whole / epoch / "validation.json").read_text()
        figures, alone = (json.loads((folder / epoch / "evaluation.json").read_text()) for folder in (run, whole))
        assert figures == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("options", [("policy", "0/2"), ("reward_model", "0/2"), ("reward_model", "all/2")])
def test_a_shard_of_another_phase_is_refused(options: tuple[str, str], config: Path, tmp_path: Path) -> None:
    phase, shard = options
    assert train(config, tmp_path / "run", "--phase", phase, "--shard", shard) == EXIT_BAD_INPUT


def test_the_snapshot_of_a_lake_has_no_shards(config: Path, tmp_path: Path) -> None:
    lake = ["--set", "feedback.source=lake", "--set", f"feedback.path={tmp_path}", "--set", "reward.source=learned"]
    assert train(config, tmp_path / "run", "--phase", "feedback", "--shard", "0/2", *lake) == EXIT_BAD_INPUT


def test_one_shard_does_the_warm_start_for_all(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def teach(session: Session, folder: Path) -> float:
        shutil.copytree(session.base, folder, dirs_exist_ok=True)
        taught.append(session.part.shard)
        return 1.0

    taught: list[int | None] = []
    monkeypatch.setattr(phases, "train_warm_start", teach)
    warm = tmp_path / "warm.yaml"
    warm.write_text(config.read_text() + "warm_start: {contexts: 4}\n")
    run = RunDirectory(tmp_path / "run")
    with ThreadPoolExecutor() as shards:
        with run.store.hold("warm_start.once"):
            first = shards.submit(train, warm, tmp_path / "run", "--phase", "rollouts", "--shard", "1/2")
            with pytest.raises(TimeoutError):
                first.result(timeout=3)
            assert not run.phase("warm-start").finished()
        assert first.result() == 0
    assert train(warm, tmp_path / "run", "--phase", "rollouts", "--shard", "0/2") == 0
    assert taught == [1]


def test_each_shard_has_its_share_of_the_judges_budget_and_the_seed_of_all(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = JudgeConfig(base_url="http://judge/v1", model="m", budget_micros=1001)
    asked: list[tuple[int | None, int]] = []
    monkeypatch.setattr(answer_phases, "judged_clicks", lambda one, seed, _: asked.append((one.budget_micros, seed)))
    session = Session(load_config(str(config)), RunDirectory("memory://judged"))
    for part in (*shards_of(3), ALONE):
        answer_phases.users_of(session, judge, part, 7)
    assert asked == [(333, 7), (333, 7), (333, 7), (1001, 7)]


def test_simulated_users_of_each_shard_have_a_seed_of_their_own(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(answer_phases, "simulated_clicks", lambda _, seed: seeds.append(seed))
    session = Session(load_config(str(config)), RunDirectory("memory://simulated"))
    for part in (*shards_of(3), ALONE):
        answer_phases.users_of(session, None, part, 7)
    assert len(set(seeds)) == 3
    assert seeds[0] == seeds[3] == 7
