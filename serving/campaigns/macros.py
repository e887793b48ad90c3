"""Macros in landing addresses: what the advertiser's page learns of a click, so that it can report its conversions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from mechanism.sanitize import web_address_fault

MACROS = ("click_id", "campaign_id", "creative_id")
_MACRO = re.compile(r"\{(" + "|".join(MACROS) + r")\}")
_IN_AUTHORITY = re.compile(r"[^/]*//[^/?#]*\{")


def landing_fault(url: str) -> str | None:
    """Return the remedy for a landing address that is wrong or has an unknown macro; None if it is right."""
    plain = _MACRO.sub("0", url)
    if "{" in plain or "}" in plain:
        return f"use {', '.join(f'{{{name}}}' for name in MACROS)} alone, or percent-encode the braces"
    remedy = web_address_fault(plain)
    if remedy is None and _IN_AUTHORITY.match(url):  # urlsplit raises for a macro in an IPv6 address
        remedy = "use macros behind the host only"
    return remedy


def fill(url: str, values: Mapping[str, str]) -> str:
    """Return the address with the values of all macros, percent-encoded."""
    return _MACRO.sub(lambda found: quote(values[found[1]], safe=""), url)
