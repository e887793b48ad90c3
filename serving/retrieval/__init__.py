"""Candidate retrieval: which of the eligible creatives enter the prompt of one question.

`index` searches the creatives of all campaigns by meaning and by words, `selection` cuts to one prompt. Who is eligible
is `serving.eligibility`'s to say, who may stand beside whom `serving.separation`'s.
"""

from serving.retrieval.index import CreativeIndex, Found, query_text
from serving.retrieval.selection import natural_order, prompt_candidates

__all__ = ["CreativeIndex", "Found", "natural_order", "prompt_candidates", "query_text"]
