"""What a run directory promises, on a disk and in an object store, to a run that can be killed at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from mechanism.errors import AuctionError, InputError
from trainers.artifacts import locks
from trainers.artifacts.publication import COMPLETE, UPLOADING, damage
from trainers.artifacts.run_directory import RunDirectory

CONFIG = "base: tiny\nirpo:\n  epochs: 3\n  beta: 0.1\n"

OpenRun = Callable[[], RunDirectory]


@pytest.fixture(params=["path", "file", "memory", "s3"])
def open_run(request: pytest.FixtureRequest, tmp_path: Path) -> OpenRun:
    """Opens the same run again, as another process would."""
    made: dict[str, Callable[[], str]] = {
        "path": lambda: str(tmp_path / "run"),
        "file": lambda: f"file://{tmp_path}/run",
        "memory": lambda: f"memory://{uuid.uuid4().hex}/run",
        "s3": lambda: str(request.getfixturevalue("new_bucket")()) + "/run",
    }
    url = made[request.param]()
    return lambda: RunDirectory(url, tmp_path / "cache")


def fill(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights.bin").write_bytes(b"\x01" * 1000)
    (folder / "notes.txt").write_text("two files")


def test_a_configuration_is_kept_as_it_was_written(open_run: OpenRun) -> None:
    open_run().create(CONFIG)
    open_run().create(CONFIG)
    open_run().create("# a comment\n" + CONFIG)
    assert open_run().config_text() == CONFIG


def test_a_run_with_other_settings_is_refused_and_the_keys_are_named(open_run: OpenRun) -> None:
    open_run().create(CONFIG)
    with pytest.raises(InputError, match=r"'irpo\.beta, irpo\.epochs, seed'.*--resume") as caught:
        open_run().create("base: tiny\nseed: 7\nirpo: {epochs: 4, beta: 1}\n")
    assert "config.yaml" in caught.value.place
    assert open_run().config_text() == CONFIG


def test_resuming_takes_new_settings_and_keeps_the_old_ones_on_record(open_run: OpenRun) -> None:
    open_run().create(CONFIG)
    open_run().create("base: tiny\n", resume=True)
    open_run().create("base: other\n", resume=True)
    run = open_run()
    assert run.config_text() == "base: other\n"
    assert [run.store.read(f"config.{k}.yaml").decode() for k in (1, 2)] == [CONFIG, "base: tiny\n"]


def test_a_configuration_that_is_not_yaml_or_not_there_is_bad_input(open_run: OpenRun) -> None:
    with pytest.raises(InputError, match="YAML"):
        open_run().create("a: [")
    with pytest.raises(InputError, match=r"config\.yaml.*no such file"):
        open_run().config_text()


@pytest.mark.parametrize("epoch", [None, 1, 12, 1000])
def test_a_phase_is_visible_when_its_block_ends_and_not_before(open_run: OpenRun, epoch: int | None) -> None:
    phase = open_run().phase("policy", epoch)
    assert not phase.finished()
    with phase.open() as folder:
        fill(folder)
        assert not open_run().phase("policy", epoch).finished()
    again = open_run().phase("policy", epoch)
    assert again.finished()
    assert again.verify() == ()
    assert set(again.manifest().files) == {"model/weights.bin", "notes.txt"}
    assert again.manifest().files["model/weights.bin"].size == 1000
    assert 0 <= again.manifest().seconds < 60
    assert (again.fetch() / "notes.txt").read_text() == "two files"


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name, epoch in (("warm-start", None), ("feedback", 1), ("reward_model", 1)):
        with run.phase(name, epoch).open() as folder:
            fill(folder)
    for name in ("warm-start", "epoch-001/feedback", "epoch-001/reward_model"):
        assert (tmp_path / name / "model" / "weights.bin").is_file()
        assert (tmp_path / name / COMPLETE).is_file()


def test_a_finished_phase_is_never_written_again(open_run: OpenRun) -> None:
    with open_run().phase("pairs", 1).open() as folder:
        fill(folder)
    with pytest.raises(InputError, match=r"epoch-001/pairs.*finished"), open_run().phase("pairs", 1).open():
        pytest.fail("the block must not run")


def test_after_an_exception_nothing_is_visible_and_the_phase_can_be_written(open_run: OpenRun) -> None:
    def fail(error: type[BaseException]) -> None:
        with open_run().phase("rollouts", 2).open() as folder:
            fill(folder)
            staging.append(folder)
            raise error

    staging: list[Path] = []
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
        assert not staging[-1].exists()
        assert not open_run().phase("rollouts", 2).finished()
        with pytest.raises(InputError, match="not finished"):
            open_run().phase("rollouts", 2).fetch()
    with open_run().phase("rollouts", 2).open() as folder:
        assert list(folder.iterdir()) == []
        fill(folder)
    assert open_run().phase("rollouts", 2).finished()


def test_scratch_survives_a_failure_and_goes_when_the_phase_is_published(open_run: OpenRun) -> None:
    def fail() -> None:
        phase = open_run().phase("policy", 1)
        with phase.open():
            (phase.scratch() / "step-100").write_text("weights")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    again = open_run().phase("policy", 1)
    scratch = again.scratch()
    assert scratch.name == "policy.checkpoints"
    assert (scratch / "step-100").read_text() == "weights"
    with again.open() as folder:
        fill(folder)
    assert not scratch.exists()


def test_scratch_of_a_run_killed_just_after_publishing_goes_and_other_folders_stay(open_run: OpenRun) -> None:
    with open_run().phase("policy", 1).open() as folder:
        fill(folder)
    left = open_run().phase("policy", 1).scratch()
    needed = open_run().phase("policy", 2).scratch()
    foreign = left.with_name("policy.backup")
    foreign.mkdir()
    with open_run().lock():
        assert not left.exists()
        assert needed.exists()
        assert foreign.exists()


def test_damaged_and_missing_files_are_reported_by_name(open_run: OpenRun) -> None:
    phase = open_run().phase("policy", 1)
    with phase.open() as folder:
        for name in ("a", "b", "c", "d"):
            (folder / name).write_bytes(name.encode() * 10)
    fs, where = phase.store.fs, phase.store.path(phase.relative)
    fs.rm_file(f"{where}/a")
    fs.pipe_file(f"{where}/b", b"short")
    fs.pipe_file(f"{where}/c", b"x" * 10)
    assert [line.partition(" ")[0] for line in phase.verify()] == ["a:", "b:", "c:"]
    fs.pipe_file(f"{where}/{COMPLETE}", b"{")
    with pytest.raises(InputError, match="damaged"):
        phase.verify()


def test_a_phase_holds_plain_files_and_leaves_the_manifest_s_name_alone(open_run: OpenRun) -> None:
    with pytest.raises(InputError, match="plain files"), open_run().phase("pairs", 1).open() as folder:
        (folder / COMPLETE).write_text("{}")
    with pytest.raises(InputError, match="plain files"), open_run().phase("pairs", 1).open() as folder:
        (folder / "link").symlink_to("/etc/hostname")
    assert not open_run().phase("pairs", 1).finished()


def test_a_folder_that_is_not_ours_is_neither_finished_nor_removed(open_run: OpenRun) -> None:
    run = open_run()
    run.write_text("epoch-001/policy/model.bin", "a user's")
    assert not run.phase("policy", 1).finished()
    with pytest.raises(InputError, match=r"model\.bin.*move it away"), run.phase("policy", 1).open():
        pytest.fail("the block must not run")
    assert run.store.read("epoch-001/policy/model.bin") == b"a user's"


def test_a_second_writer_is_refused_and_told_who_writes(open_run: OpenRun) -> None:
    with open_run().phase("policy", 1).open() as folder:
        fill(folder)
        refused = pytest.raises(InputError, match=rf"policy.*held by process {os.getpid()} on .*stop it")
        with refused, open_run().phase("policy", 1).open():
            pytest.fail("the block must not run")
        with open_run().phase("policy", 2).open() as other:
            fill(other)
    assert open_run().phase("policy", 1).verify() == ()


def test_one_trainer_per_run(open_run: OpenRun) -> None:
    with open_run().lock():
        with pytest.raises(InputError, match="held by process"), open_run().lock():
            pytest.fail("the block must not run")
        with open_run().phase("warm-start").open() as folder:
            fill(folder)
    with open_run().lock() as check:
        check()


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({"pid": "dead"}, True),
        ({"started": "1"}, True),  # the process id is in use again
        ({}, False),
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "renewed": 0.0}, True),
    ],
)
def test_a_remote_lock_is_taken_over_only_from_who_is_gone(change: dict[str, object], taken: bool) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    if change.get("pid") == "dead":
        change = {"pid": dead_process()}
    holder = replace(locks.this_process(), **change)  # type: ignore[arg-type]
    fsspec.filesystem("memory").pipe_file(f"{url}/.locks/_root.lock", holder.encode())
    if taken:
        with RunDirectory(url).lock() as check:
            check()
    else:
        with pytest.raises(InputError, match="held by process"), RunDirectory(url).lock():
            pytest.fail("the block must not run")


def test_a_remote_writer_that_lost_its_lock_publishes_nothing(tmp_path: Path) -> None:
    phase = RunDirectory(f"memory://{uuid.uuid4().hex}", tmp_path).phase("policy", 1)
    other = replace(locks.this_process(), host="elsewhere")

    def write() -> None:
        with phase.open() as folder:
            fill(folder)
            phase.store.fs.pipe_file(phase.store.path(".locks/epoch-001.policy.lock"), other.encode())

    with pytest.raises(AuctionError, match="taken over"):
        write()
    assert not phase.finished()


def test_a_remote_lock_is_renewed_while_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.01)
    run = RunDirectory(f"memory://{uuid.uuid4().hex}")

    def renewed() -> float:
        holder = locks.Holder.decode(run.store.read(".locks/_root.lock"))
        assert holder is not None
        return holder.renewed

    with run.lock() as check:
        first, deadline = renewed(), time.monotonic() + 10
        while renewed() == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        check()
    assert not run.exists(".locks/_root.lock")


def test_a_remote_phase_is_downloaded_once_and_checked_on_arrival(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    writer = RunDirectory(url, tmp_path / "writer").phase("policy", 1)
    with writer.open() as folder:
        fill(folder)
    assert not writer.store.exists(f"{writer.relative}/{UPLOADING}")
    reader = RunDirectory(url, tmp_path / "reader").phase("policy", 1)
    fetched = reader.fetch()
    assert damage(reader.manifest(), lambda name: (fetched / name).open("rb")) == ()
    reader.store.fs.pipe_file(reader.store.path(f"{reader.relative}/notes.txt"), b"two flies")
    assert reader.fetch() == fetched
    assert (fetched / "notes.txt").read_text() == "two files"
    with pytest.raises(AuctionError, match=r"notes\.txt: sha256"):
        RunDirectory(url, tmp_path / "third").phase("policy", 1).fetch()


def test_a_manifest_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    phase = RunDirectory(url, tmp_path / "writer").phase("policy", 1)
    with phase.open() as folder:
        fill(folder)
    forged = phase.store.read(f"{phase.relative}/{COMPLETE}").replace(b"notes.txt", b"../../../notes.txt")
    phase.store.write(f"{phase.relative}/{COMPLETE}", forged)
    with pytest.raises(InputError, match="below the root"):
        RunDirectory(url, tmp_path / "reader").phase("policy", 1).fetch()


def test_json_is_written_whole_and_read_back(open_run: OpenRun) -> None:
    report = {"revenue": {"mean": 1.5, "lo": None}, "method": "é"}
    open_run().write_json("epoch-001/evaluation.json", report)
    open_run().write_json("epoch-001/evaluation.json", report)
    assert open_run().read_json("epoch-001/evaluation.json") == report
    assert open_run().exists("epoch-001/evaluation.json")
    assert not open_run().exists("report.json")
    with pytest.raises(InputError, match=r"report\.json.*None"):
        open_run().write_json("report.json", {"revenue": float("nan")})
    with pytest.raises(InputError, match=r"report\.json.*no such file"):
        open_run().read_json("report.json")
    open_run().write_text("report.json", "{")
    with pytest.raises(InputError, match=r"report\.json.*damaged"):
        open_run().read_json("report.json")


def test_finished_epochs_have_a_policy_and_an_evaluation(open_run: OpenRun) -> None:
    run = open_run()
    assert run.epochs() == []
    for epoch in (10, 1, 2):
        with run.phase("policy", epoch).open() as folder:
            fill(folder)
    for epoch in (1, 3, 10):
        run.write_json(f"epoch-{epoch:03d}/evaluation.json", {})
    assert open_run().epochs() == [1, 10]


@pytest.mark.parametrize("name", ["", "../x", "a//b", "/etc", "a\\b", "a/./b"])
def test_names_stay_below_the_root(open_run: OpenRun, name: str) -> None:
    with pytest.raises(InputError):
        open_run().write_text(name, "")
    with pytest.raises(InputError):
        open_run().phase(name)


@pytest.mark.parametrize("epoch", [0, -1, True])
def test_epochs_count_from_one(open_run: OpenRun, epoch: int) -> None:
    with pytest.raises(InputError, match="from 1"):
        open_run().phase("policy", epoch)


@pytest.mark.parametrize("url", ["", "nowhere://x/y"])
def test_an_impossible_url_is_bad_input(url: str) -> None:
    with pytest.raises(InputError, match="url"):
        RunDirectory(url)


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = RunDirectory(tmp_path / "file")
    with pytest.raises(InputError, match="can be written"):
        run.create(CONFIG)
    with pytest.raises(InputError, match="can be written"), run.lock():
        pytest.fail("the block must not run")
