"""Candidate retrieval: which of the eligible creatives enter the prompt of one question.

`index` searches the creatives of all campaigns by meaning and by words, `selection` cuts to one prompt. Who is eligible
is `serving.auction.eligibility`'s to say, who may stand beside whom `serving.auction.separation`'s.
"""

from serving.auction.retrieval.index import CreativeIndex, Found, query_text
from serving.auction.retrieval.selection import natural_order, prompt_candidates

__all__ = ["CreativeIndex", "Found", "natural_order", "prompt_candidates", "query_text"]
