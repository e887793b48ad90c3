"""The LiteLLM proxy of the comparison: its virtual environment from PyPI, its configuration, its start command.

Version and date are pinned; everything that costs it time and that the measurement does not need (database, callbacks,
retries, logging of requests) is off. Only wheels are installed, so that no foreign build script runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mechanism.errors import InputError

VERSION = "1.106.2"
AS_OF = "2026-11-01"
"""No package younger than this day is installed: the same environment every time, and no release of this morning."""
MODEL = "mock"


def install(folder: Path) -> Path:
    """Makes the virtual environment where it is not there yet, and gives its start script. Raises InputError."""
    stamp, script = folder / f".installed-{VERSION}-{AS_OF}", folder / "bin" / "litellm"
    if stamp.exists():
        return script
    uv = [sys.executable, "-m", "uv"]
    wanted = ["--only-binary", ":all:", "--exclude-newer", AS_OF, f"litellm[proxy]=={VERSION}"]
    python = str(folder / "bin" / "python")
    try:
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
    except subprocess.CalledProcessError as error:
        remedy = "see above what uv says; it comes with the extra `dev`, and PyPI has to be in reach"
        raise InputError("litellm", VERSION, remedy) from error
    stamp.touch()
    return script


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
