"""JSON Schemas of the events, for programs in other languages: `python -m streaming.schemas` writes docs/schemas/.

They are generated from `streaming.events`; do not edit them. A test fails if the folder and the structs differ.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from streaming.codec import NEWEST

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, str]:
    """Return the text of every schema file, by the name of the file."""
    found = {}
    for topic, kind in NEWEST.items():
        schema = {"$schema": DIALECT, "title": f"Event of the topic {topic}", **_unwrapped(msgspec.json.schema(kind))}
        found[f"{topic}.json"] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return found


def write(folder: Path = FOLDER) -> list[Path]:
    """Write the schemas, and remove the files of topics that no longer exist."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = schemas()
    for stale in set(folder.glob("*.json")) - {folder / name for name in texts}:
        stale.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _unwrapped(value: Any) -> Any:
    """Return a schema with each description on one line: descriptions are docstrings, which are wrapped."""
    if isinstance(value, list):
        return [_unwrapped(part) for part in value]
    if not isinstance(value, dict):
        return value
    fields = {name: _unwrapped(part) for name, part in value.items()}
    if isinstance(text := fields.get("description"), str):
        fields["description"] = " ".join(text.split())
    return fields


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}\n" for path in write())
