"""The generative auction as pure rules: no model, no network, no clock; numpy and the standard library only.

The names below are the ones most rooms need; everything else is imported from its module.
"""

from mechanism.errors import AuctionError, ConfigError, InputError
from mechanism.markers import parse, render_marker
from mechanism.objective import Penalty, reward, s_resp, value
from mechanism.stream import AdPiece, MarkerStream, TextPiece
from mechanism.types import Ad, AdId, Answer, Candidate, Context, Micros, Profile

__all__ = [
    "Ad",
    "AdId",
    "AdPiece",
    "Answer",
    "AuctionError",
    "Candidate",
    "ConfigError",
    "Context",
    "InputError",
    "MarkerStream",
    "Micros",
    "Penalty",
    "Profile",
    "TextPiece",
    "parse",
    "render_marker",
    "reward",
    "s_resp",
    "value",
]
