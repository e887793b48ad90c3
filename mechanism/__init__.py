"""The generative auction as pure rules: no model, no network, no clock; numpy and the standard library only.

Notation and equations are those of LLM-Auction (arXiv 2512.10551). The language model is the allocation rule: it reads
the query, the user's profile and every candidate ad with its bid, and writes one answer that shows any number of the
ads. This package holds what training, serving and evaluation share about that auction: the prompt, the insertion
format, the objective, the payments, the measured properties, and the mechanisms of other papers as baselines.

The names below are those that a program with its own model needs; everything else is imported from its module.

>>> shoes = Ad("ad-1", "Kestrel Trail Shoes", "grippy shoes for wet ground", "Kestrel")
>>> answer = parse(f"For mud, try the {render_marker(shoes)}.", [shoes])
>>> answer.text
'For mud, try the Kestrel Trail Shoes.'
>>> answer.shown()
('ad-1',)
>>> reward(answer, bids={"ad-1": 500_000}, ctr={"ad-1": 0.4}, penalty=Penalty())  # 50 points * 0.4 - 10 for an ad
10.0
"""

from mechanism.errors import AuctionError, ConfigError, InputError
from mechanism.markers import parse, render_marker
from mechanism.objective import Penalty, objective, reward, s_resp, value
from mechanism.stream import AdPiece, MarkerStream, TextPiece
from mechanism.types import Ad, AdId, Answer, Candidate, Context, Micros, Profile

__all__ = [
    # The nouns of the auction
    "Ad",
    "AdId",
    "Answer",
    "Candidate",
    "Context",
    "Micros",
    "Profile",
    # The insertion format, for a whole answer and for a stream of tokens
    "parse",
    "render_marker",
    "AdPiece",
    "MarkerStream",
    "TextPiece",
    # Eq. 2, 5 and 8
    "Penalty",
    "objective",
    "reward",
    "s_resp",
    "value",
    # What can go wrong
    "AuctionError",
    "ConfigError",
    "InputError",
]
