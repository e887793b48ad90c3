"""Rules that import contracts cannot express: lazy imports, rooms that load without torch, the size of files."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import ROOMS

REPOSITORY = Path(__file__).parents[2]
MAX_LINES = 400
TORCH = {"torch", "transformers", "trl", "deepspeed", "accelerate", "datasets", "inference"}


def sources(room: str) -> list[Path]:
    return sorted((REPOSITORY / room).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imported(tree: ast.AST, *, at_module_scope: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every absolute import, or only of those that run when the module is loaded."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
        elif at_module_scope and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or for_types_only(node)):
            continue
        else:
            yield from imported(node, at_module_scope=at_module_scope)


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def top_levels(path: Path, *, at_module_scope: bool) -> set[tuple[int, str]]:
    tree = ast.parse(path.read_text("utf-8"), str(path))
    return {(line, name.split(".")[0]) for line, name in imported(tree, at_module_scope=at_module_scope)}


def test_the_scan_distinguishes_lazy_imports() -> None:
    tree = ast.parse(
        "import numpy\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
        "def f():\n    import inference\nclass C:\n    import trl\n"
    )
    assert [name for _, name in imported(tree, at_module_scope=True)] == ["numpy", "typing", "trl"]
    assert {"torch", "inference"} <= {name for _, name in imported(tree, at_module_scope=False)}


@pytest.mark.parametrize("room", [*ROOMS, "benchmarks"])
def test_a_room_is_loaded_from_this_repository(room: str) -> None:
    """Room names are ordinary words: no dependency may bring a package of the same name."""
    module = importlib.import_module(room)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == REPOSITORY / room


@pytest.mark.parametrize("room", [*ROOMS, "benchmarks"])
def test_every_folder_of_modules_is_a_package(room: str) -> None:
    """setuptools leaves other folders out of the wheel."""
    assert [p for p in sources(room) if not (p.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", sources("mechanism"), ids=relative)
def test_mechanism_needs_numpy_and_the_standard_library_only(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"mechanism", "numpy"}
    assert [i for i in top_levels(path, at_module_scope=False) if i[1] not in allowed] == []


@pytest.mark.parametrize("path", sources("simulator"), ids=relative)
def test_simulator_imports_torch_and_inference_inside_functions_only(path: Path) -> None:
    assert [i for i in top_levels(path, at_module_scope=True) if i[1] in TORCH] == []


@pytest.mark.parametrize("path", sources("cli"), ids=relative)
def test_commands_import_heavy_packages_when_they_are_called(path: Path) -> None:
    heavy = TORCH | {"litestar", "uvicorn", "sqlalchemy", "matplotlib", "kubernetes", "kafka"}
    assert [i for i in top_levels(path, at_module_scope=True) if i[1] in heavy] == []


def without_torch() -> list[str]:
    """Return the modules that must load on a machine without torch."""
    names = []
    for room in ("mechanism", "judge", "simulator", "streaming", "operators", "cli"):
        names += [room, *(m.name for m in pkgutil.walk_packages([str(REPOSITORY / room)], f"{room}."))]
    config = REPOSITORY / "trainers" / "config"
    names += ["trainers.config", *(m.name for m in pkgutil.walk_packages([str(config)], "trainers.config."))]
    return names


def test_rooms_without_torch_load_where_torch_is_missing() -> None:
    script = (
        "import importlib, sys\n"
        "for name in ('torch', 'transformers', 'trl', 'deepspeed'): sys.modules[name] = None\n"
        f"for name in {without_torch()!r}:\n    importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_python_file_is_longer_than_a_reader_can_follow() -> None:
    """A file beyond MAX_LINES holds two subjects: split it."""
    files = [path for room in (*ROOMS, "benchmarks", "tests") for path in sources(room)]
    lengths = {relative(path): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}
