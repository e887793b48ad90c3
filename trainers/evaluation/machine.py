"""What the figures were measured on: processor, cores, memory, package versions. Never the machine's name or user.

Whether an accelerator was used is known to the caller, who has torch.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Final

from trainers.evaluation.report import Machine

PACKAGES: Final = ("llm-auction", "torch", "transformers", "trl", "deepspeed", "numpy")
"""Packages whose versions can change a figure."""

_CPUINFO: Final = Path("/proc/cpuinfo")


def machine_summary(accelerator: str = "") -> Machine:
    """This machine's kind; `accelerator` as the caller names it, such as "1 x NVIDIA H100"."""
    return Machine(cpu=_cpu(), cores=_cores(), ram_gib=_ram_gib(), accelerator=accelerator)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed PACKAGES."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpu() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text("utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ram_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return round(size / 2**30, 1) if size > 0 else None
