"""The wheel: every room and its data files, and nothing that only development needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cli import ROOMS

REPOSITORY = Path(__file__).parents[2]
METADATA = ("pyproject.toml", "README.md", "LICENSE")
DEVELOPMENT = ("tests", "benchmarks", "charts", "docs", "requirements", "scripts")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The wheel's files; it is built from a copy, so that no build folder is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for room in DEVELOPMENT[:2]:
        (folder / room).mkdir()
        (folder / room / "__init__.py").touch()
    for name in METADATA:
        shutil.copy(REPOSITORY / name, folder)
    build = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    command = [*build, "--no-build-isolation", "--no-index", "--wheel-dir", str(folder / "dist"), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    [wheel] = (folder / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_it_contains_every_file_of_every_room(names: set[str]) -> None:
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - names == set()


def test_it_contains_nothing_else(names: set[str]) -> None:
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(ROOMS)


@pytest.mark.parametrize("word", ["drill", "benchmark", "cluster", "test"])
def test_no_module_is_for_development_only(names: set[str], word: str) -> None:
    assert [name for name in names if word in Path(name).stem and name.endswith(".py")] == []


@pytest.mark.parametrize(
    "name",
    [
        "judge/rules.py",
        "trainers/configs/quick.yaml",
        "serving/pages/",
        "simulator/data/",
        "inference/models_data/tiny/",
        "trainers/evaluation/templates/",
        *(f"{room}/py.typed" for room in ROOMS),
    ],
)
def test_it_contains_what_the_commands_read(names: set[str], name: str) -> None:
    assert any(found.startswith(name) for found in names)
