"""Conversations in which no ad belongs: grief, illness, crises, politics and the like. Decided before eligibility.

`rules` reads phrases in five languages, `meaning` a vector of each message, `gate` decides on the whole conversation,
`help_lines` names who helps in a crisis. The phrases and examples are in `data/`. It errs on the side of no ad.
"""

from serving.auction.sensitive.gate import SensitiveGate, Sensitivity, Verdict
from serving.auction.sensitive.help_lines import help_text
from serving.auction.sensitive.topics import ACUTE, Topic

__all__ = ["ACUTE", "SensitiveGate", "Sensitivity", "Topic", "Verdict", "help_text"]
