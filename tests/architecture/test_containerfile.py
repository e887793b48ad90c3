"""The Containerfile, as far as it can be checked without a container engine: its files, targets and locks."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cli import ROOMS

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def copied() -> set[str]:
    lines = (line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from" not in line)
    return {word for words in lines for word in words}


def test_every_copied_path_exists_and_every_room_is_copied() -> None:
    assert {name for name in copied() if not (ROOT / name).exists()} == set()
    assert set(ROOMS) <= copied()


def test_every_stage_uses_earlier_ones_and_every_image_of_the_chart_is_a_target() -> None:
    stages: list[str] = []
    for line in LINES:
        if found := re.match(r"FROM (\S+) AS (\S+)$", line):
            assert found[1].startswith("${") or found[1] in stages
            stages.append(found[2])
        for used in re.findall(r"(?:COPY --|,)from=([^\s,]+)", line):
            assert used in stages
    operator, platform = (
        yaml.safe_load((ROOT / "charts" / f"llm-auction-{chart}" / "values.yaml").read_text(encoding="utf-8"))
        for chart in ("operator", "platform")
    )
    wanted = {operator["image"], *platform["images"].values()}
    assert {image.removeprefix("llm-auction-").partition(":")[0] for image in wanted} <= set(stages)


def test_images_run_as_an_unprivileged_user() -> None:
    text = "\n".join(LINES)
    for stage in ("operator", "router", "trainer", "policy", "policy-nvidia"):
        part = text.split(f" AS {stage}\n")[1].split("\nFROM ")[0]
        assert "\nUSER 10001:10001" in part


def test_the_layer_with_torch_suits_every_image_that_has_it() -> None:
    """install.sh takes it from the policy's lock, and the rest of the trainer's image from the trainer's."""
    names = r"(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)=="
    assert f"/^{names}/" in (ROOT / "scripts" / "install.sh").read_text(encoding="utf-8")
    first, second = (
        [line for line in (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines() if re.match(names, line)]
        for lock in ("policy", "trainer")
    )
    assert first == second
    assert any(pin.startswith("torch==") for pin in first)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("lock", "commands"),
    [
        ("operator.txt", [["operator", "--help"]]),
        ("router.txt", [["serve", "--help"], ["worker", "ledger", "--help"], ["triton", "build", "--help"]]),
    ],
)
def test_a_lock_suffices_for_the_commands_of_its_image(tmp_path: Path, lock: str, commands: list[list[str]]) -> None:
    """The lock and the project are installed into a new environment, as in the Containerfile."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    for name in ("build.txt", lock):
        options = ["--require-hashes", "--no-build-isolation", "-r", str(ROOT / "requirements" / name)]
        subprocess.run([*pip, *options], check=True)
    source = tmp_path / "source"
    source.mkdir()
    for path in (ROOT / name for name in copied()):
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.parent == ROOT:
            shutil.copy(path, source)
    subprocess.run([*pip, "--no-build-isolation", "--no-cache-dir", str(source)], check=True)
    for command in commands:
        program = [str(tmp_path / "venv" / "bin" / "llm-auction"), *command]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    imported = (
        "import operators.operator" if lock == "operator.txt" else "import serving.http.app, serving.policies.versioned"
    )
    check = f"{imported}; import sys; assert 'torch' not in sys.modules"
    subprocess.run([str(python), "-c", check], cwd=tmp_path, check=True)
