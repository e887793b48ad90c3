"""What the import contracts cannot say: which imports are lazy, and that rooms without torch really load without it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("mechanism", "inference", "simulator", "streaming", "trainers", "serving", "operators", "cli")
TORCH = {"torch", "transformers", "trl", "deepspeed", "accelerate", "datasets", "inference"}


def sources(room: str) -> list[Path]:
    return sorted((REPOSITORY / room).rglob("*.py"))


def imported(tree: ast.AST, *, at_module_scope: bool) -> Iterator[tuple[int, str]]:
    """(line, module) of every absolute import; those that run when the module is loaded, or all of them."""
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


def test_the_scan_tells_lazy_imports_from_others() -> None:
    tree = ast.parse(
        "import numpy\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
        "def f():\n    import inference\nclass C:\n    import trl\n"
    )
    assert [name for _, name in imported(tree, at_module_scope=True)] == ["numpy", "typing", "trl"]
    assert {"torch", "inference"} <= {name for _, name in imported(tree, at_module_scope=False)}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_loaded_from_this_repository(room: str) -> None:
    """Room names are ordinary words: no dependency may bring a package of the same name."""
    module = importlib.import_module(room)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == REPOSITORY / room


@pytest.mark.parametrize("room", ROOMS)
def test_every_folder_of_modules_is_a_package(room: str) -> None:
    """setuptools leaves other folders out of the wheel."""
    assert [p for p in sources(room) if not (p.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", sources("mechanism"), ids=lambda p: p.stem)
def test_mechanism_needs_numpy_and_the_standard_library_only(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"mechanism", "numpy"}
    assert [i for i in top_levels(path, at_module_scope=False) if i[1] not in allowed] == []


@pytest.mark.parametrize("path", sources("simulator"), ids=lambda p: p.stem)
def test_simulator_imports_torch_and_inference_inside_functions_only(path: Path) -> None:
    assert [i for i in top_levels(path, at_module_scope=True) if i[1] in TORCH] == []


@pytest.mark.parametrize("path", sources("cli"), ids=lambda p: p.stem)
def test_commands_import_what_is_heavy_when_they_are_called(path: Path) -> None:
    heavy = TORCH | {"litestar", "uvicorn", "sqlalchemy", "matplotlib", "kopf", "kubernetes", "kafka"}
    assert [i for i in top_levels(path, at_module_scope=True) if i[1] in heavy] == []


def without_torch() -> list[str]:
    """Modules that a machine without torch must be able to load."""
    names = []
    for room in ("mechanism", "simulator", "streaming", "operators", "cli"):
        names += [room, *(m.name for m in pkgutil.walk_packages([str(REPOSITORY / room)], f"{room}."))]
    config = REPOSITORY / "trainers" / "config"
    if config.is_dir() or config.with_suffix(".py").exists():
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
