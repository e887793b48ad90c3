"""The programs of a cluster: pinned, built once, and never left behind incomplete."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster import tools


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache of programs."""
    monkeypatch.setenv(tools.PLACE, str(tmp_path / "programs"))
    return tools.folder()


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, build: str) -> None:
    """Put a fake Go compiler first on PATH: it reports `version` and builds by the shell lines `build`.

    In these lines, $target is the file to write.
    """
    folder.mkdir()
    script = folder / "go"
    lines = (
        f'if [ "$1" = env ]; then echo {version}; exit; fi\nwhile [ "$1" != -o ]; do shift; done\ntarget=$2\n{build}\n'
    )
    script.write_text(f"#!/bin/sh\n{lines}", encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_every_part_of_kubernetes_is_pinned_to_the_same_release() -> None:
    pinned = (tools.MODULES / "kubernetes" / "go.mod").read_text("utf-8")
    wanted = tools.version("k8s.io/kubernetes").replace("v1.", "v0.", 1)
    staging = dict(re.findall(r"^\t(k8s\.io/\S+) => \S+ (\S+)$", pinned, re.MULTILINE))
    assert {"k8s.io/api", "k8s.io/apiserver", "k8s.io/kubelet"} <= set(staging)
    assert set(staging.values()) == {wanted}


def test_the_folder_changes_with_what_is_built(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "gomod"
    shutil.copytree(tools.MODULES, copy)
    monkeypatch.setattr(tools, "MODULES", copy)
    assert tools.folder() == place
    with (copy / "kwok" / "go.sum").open("a", encoding="utf-8") as sums:
        sums.write("\n")
    assert tools.folder() != place
    assert tools.folder().parent == place.parent


@pytest.mark.cluster
def test_a_program_is_built_once_and_is_static(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("go") is None:
        pytest.skip("there is no Go compiler")
    shared = subprocess.run(["go", "env", "GOCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("GOCACHE", shared)  # compile the standard library once, not in every run of the tests
    progress: list[str] = []
    assert tools.prepare(["pause"], progress.append) == place
    assert progress
    program = tools.locate("pause")
    built = program.stat().st_mtime_ns
    assert b"/lib64/ld-linux" not in program.read_bytes()

    progress.clear()
    tools.prepare(["pause"], progress.append)
    assert program.stat().st_mtime_ns == built
    assert not progress


def test_an_aborted_build_leaves_no_program(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path / "bin", monkeypatch, "go1.99.0", 'printf half > "$target"; echo "disk is full" >&2; exit 1')
    with pytest.raises(tools.BuildFailed, match="disk is full"):
        tools.prepare(["etcd"], lambda line: None)
    with pytest.raises(tools.ToolsMissing, match="make cluster-tools"):
        tools.locate("etcd")
    pretend(tmp_path / "fixed", monkeypatch, "go1.99.0", 'printf whole > "$target"')
    tools.prepare(["etcd"], lambda line: None)
    assert tools.locate("etcd").read_text("utf-8") == "whole"


def test_a_missing_or_old_compiler_is_an_error_that_says_what_to_install(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path / "bin", monkeypatch, "go1.19.8", "exit 1")
    with pytest.raises(tools.ToolsMissing, match=r"go is 1\.19\.8: install Go 1\.2\d"):
        tools.prepare()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tools.ToolsMissing, match=r"no `go` on the PATH.*install Go"):
        tools.prepare()


def test_compiled_packages_are_deleted_once_all_programs_exist(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOCACHE", raising=False)
    build = 'mkdir -p "$GOCACHE"; touch "$GOCACHE/package"; touch "$target"'
    pretend(tmp_path / "bin", monkeypatch, "go1.99.0", build)
    first, *others = tools.TOOLS
    tools.prepare([first], lambda line: None)
    assert (place / tools.SCRATCH / "package").exists()
    tools.prepare(others, lambda line: None)
    assert not (place / tools.SCRATCH).exists()
    assert {path.name for path in place.iterdir() if not path.name.startswith(".")} == set(tools.TOOLS)
