"""The LiteLLM proxy of the comparison: its virtual environment from PyPI, its configuration, its start command.

Every package is pinned by version and hash (`requirements/litellm.txt`); everything that costs it time and that the
measurement does not need (database, callbacks, retries, logging of requests) is off. Only wheels are installed, so that
no foreign build script runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mechanism.errors import InputError

LOCK = Path(__file__).parents[2] / "requirements" / "litellm.txt"
MODEL = "mock"


def install(folder: Path) -> Path:
    """Makes the virtual environment of the lock where it is not there yet, and gives its start script. Raises
    InputError."""
    stamp, script, lock = folder / "installed.txt", folder / "bin" / "litellm", LOCK.read_bytes()
    if stamp.is_file() and stamp.read_bytes() == lock:
        return script
    uv = [sys.executable, "-m", "uv"]
    wanted = ["--only-binary", ":all:", "--require-hashes", "--no-deps", "-r", str(LOCK)]
    python = str(folder / "bin" / "python")
    try:
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
    except subprocess.CalledProcessError as error:
        remedy = "see above what uv says; it comes with the extra `dev`, and PyPI has to be in reach"
        raise InputError("litellm", version(), remedy) from error
    stamp.write_bytes(lock)
    return script


def version() -> str:
    """LiteLLM's, by the lock."""
    (found,) = re.findall(r"^litellm==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def write_config(path: Path, upstream_port: int) -> None:
    """One model, no retries, no callbacks: the least that the proxy does for a request."""
    path.write_text(
        f"""model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: http://127.0.0.1:{upstream_port}/v1
      api_key: none
litellm_settings:
  callbacks: []
  num_retries: 0
  request_timeout: 60
  telemetry: false
""",
        encoding="utf-8",
    )


def command(script: Path, config: Path, port: int) -> list[str]:
    """One worker, on this machine alone."""
    return [str(script), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


def environment(home: Path, key: str) -> dict[str, str]:
    """What the proxy may see: its master key (it does not start without; "sk-..."), no secret of whoever measures, and
    no address that it would ask at its start."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
        "OMP_NUM_THREADS": "1",
    }
