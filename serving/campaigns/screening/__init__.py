"""Screening of creatives at booking: what is refused, what a person must review, and why.

`disguises` undoes disguises, `rules` reads a creative's texts, `names` finds impostors. Cleaning for prompts is
`mechanism.sanitize`'s; reviews are decided by administrators.
"""

from serving.campaigns.screening.names import Names
from serving.campaigns.screening.rules import Finding, Rule, is_planted, screen

__all__ = ["Finding", "Names", "Rule", "is_planted", "screen"]
