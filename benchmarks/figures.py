"""What every benchmark and drill writes: figures as JSON below `build/bench`, and percentiles among them."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np


def write_figures(path: Path, figures: Mapping[str, object]) -> None:
    """Write figures as indented JSON, in a folder that is created if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2, default=msgspec.to_builtins) + "\n", encoding="utf-8")


def percentile(values: Sequence[float], percent: float, zeros: int = 0) -> float | None:
    """Return the nearest-rank percentile of `values` and `zeros` further values of 0; None without any."""
    count = len(values) + zeros
    if not count:
        return None
    rank = max(1, math.ceil(percent / 100 * count)) - zeros
    if rank < 1:
        return 0.0
    return float(np.partition(np.array(values), rank - 1)[rank - 1])


def machine_name() -> str:
    """Return the processor's name, or its architecture."""
    return platform.processor() or platform.machine()
