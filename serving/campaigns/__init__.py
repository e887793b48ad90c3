"""Campaigns: what advertisers book, how it is validated and stored. Eligibility is `serving.auction`'s."""
