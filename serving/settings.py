"""How one router process is set up, and the secret that signs its click links."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mechanism.errors import ConfigError

SECRET_VARIABLE = "LLM_AUCTION_SECRET"
SECRET_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Limits and places of the router. Times in seconds.

    `public_url` is the address that click links begin with; empty means the address that the request came to.
    `candidates` ads enter a prompt, at most `max_ads` of them are linked in one answer; `waiting` requests may
    queue behind the one being answered.
    """

    state_dir: Path = Path("build/serve")
    public_url: str = ""
    link_lifetime_s: int = 24 * 3600
    candidates: int = 20
    max_ads: int = 3
    waiting: int = 16
    deadline_s: float = 120.0
    max_characters: int = 32_000
    max_messages: int = 200
    audited_answers: int = 1_000

    def __post_init__(self) -> None:
        for name in ("link_lifetime_s", "candidates", "max_ads", "waiting", "deadline_s", "audited_answers"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, getattr(self, name), "give a number above 0")
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            raise ConfigError("public_url", self.public_url, "begin it with http:// or https://")

    @property
    def ledger_path(self) -> Path:
        """The SQLite file of the charges."""
        return self.state_dir / "ledger.sqlite3"


def signing_secret(state_dir: Path, environment: Mapping[str, str] = os.environ) -> bytes:
    """The secret of `LLM_AUCTION_SECRET`, else the one kept in the state directory (made at the first start, 0600).

    Raises ConfigError for a secret too short to be one, or a file that others may read. The secret is never shown.
    """
    given = environment.get(SECRET_VARIABLE)
    if given is not None:
        return _checked(given, SECRET_VARIABLE)
    path = state_dir / "secret"
    state_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write_once(path, secrets.token_urlsafe(48))
    if path.stat().st_mode & 0o077:
        raise ConfigError(str(path), oct(path.stat().st_mode & 0o777), "others may read the secret: chmod 600 it")
    return _checked(path.read_text(encoding="ascii").strip(), str(path))


def _checked(secret: str, place: str) -> bytes:
    if len(secret) < SECRET_CHARACTERS:
        remedy = f"use at least {SECRET_CHARACTERS} random characters, e.g. of `openssl rand -base64 48`"
        raise ConfigError(place, f"<{len(secret)} characters>", remedy)
    return secret.encode()


def _write_once(path: Path, secret: str) -> None:
    """Creates the file whole: two servers that start together on one directory must end with the same secret."""
    draft = path.with_name(f".secret-{os.getpid()}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(secret + "\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
