"""The built-in catalogue: 100 invented ads in 50 categories, read from `data/catalogue.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from mechanism.types import Ad


@dataclass(frozen=True, slots=True)
class Category:
    """One need that users have: its name, what they may have in mind, ad-free advice, and the ads that serve it."""

    name: str
    domain: str
    aspects: tuple[str, ...]
    advice: tuple[str, ...]
    ads: tuple[Ad, ...]


@cache
def builtin_categories() -> tuple[Category, ...]:
    """The 50 categories in file order; ad ids are `A1` to `A100` in the same order."""
    rows = yaml.safe_load((resources.files("simulator") / "data" / "catalogue.yaml").read_text(encoding="utf-8"))
    categories: list[Category] = []
    for row in rows:
        first = 1 + sum(len(c.ads) for c in categories)
        ads = tuple(
            Ad(
                id=f"A{first + i}",
                title=title,
                text=text,
                advertiser=title.split()[0],
                category=row["category"],
                landing_url=f"https://{title.split()[0].lower()}.example/{row['category'].replace(' ', '-')}",
            )
            for i, (title, text) in enumerate(row["ads"])
        )
        categories.append(Category(row["category"], row["domain"], tuple(row["aspects"]), tuple(row["advice"]), ads))
    return tuple(categories)
