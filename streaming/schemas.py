"""JSON Schemas of the events, for programs in other languages: `python -m streaming.schemas` writes docs/schemas/.

They are made from `streaming.events` and never edited; a test fails where the folder and the structs differ.
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
    """The text of every schema file, by its name."""
    found = {}
    for topic, kind in NEWEST.items():
        schema = {"$schema": DIALECT, "title": f"Event of the topic {topic}", **_told(msgspec.json.schema(kind))}
        found[f"{topic}.json"] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return found


def write(folder: Path = FOLDER) -> list[Path]:
    """Writes the schemas, and removes files of topics that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = schemas()
    for stale in set(folder.glob("*.json")) - {folder / name for name in texts}:
        stale.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _told(value: Any) -> Any:
    """The schema with descriptions on one line: they come from docstrings."""
    if isinstance(value, list):
        return [_told(part) for part in value]
    if not isinstance(value, dict):
        return value
    told = {name: _told(part) for name, part in value.items()}
    if isinstance(text := told.get("description"), str):
        told["description"] = " ".join(text.split())
    return told


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}\n" for path in write())
