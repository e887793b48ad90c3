"""Candidate retrieval: the eligible creatives that fit a question best.

`index` searches the creatives of all campaigns by meaning (`vectors`) and by words (`keywords`). Eligibility is decided
by `serving.auction.eligibility`, which creatives may share a prompt by `serving.auction.offers`.
"""

from serving.auction.retrieval.index import CreativeIndex, Hit, creative_text, query_text

__all__ = ["CreativeIndex", "Hit", "creative_text", "query_text"]
