"""The first administrator's key: given by the environment, or made at the first start and kept in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from serving.accounts.keys import AccountStore, Role

KEY_FILE = "admin-key"


def ensure_administrator(
    accounts: AccountStore, state_dir: Path, now: datetime, environment: Mapping[str, str] = os.environ
) -> Path | None:
    """Sees to it that somebody can administer a new router. The file with the key where one was made now or before,
    readable by its owner alone; None where the environment or another administrator's key takes its place."""
    if accounts.bootstrap(environment, now) is not None:
        return None
    path = state_dir / KEY_FILE
    if path.exists() and accounts.find(path.read_text(encoding="ascii").strip(), now) is not None:
        return path
    if any(key.role is Role.ADMIN and key.valid(now) for key in accounts.keys()):  # noqa: SIM118
        return None
    issued = accounts.issue(Role.ADMIN, "made at the first start", now)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(issued.secret + "\n")
    return path
