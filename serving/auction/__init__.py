"""Who may bid in an auction, and at what: eligibility, retrieval, pacing, frequency caps, ad load."""
