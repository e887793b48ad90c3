"""A router with the built-in catalogue whose policy is never asked, for benchmarks of what happens before a policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cli.serve import builtin_catalogue
from inference.encoder import shared_encoder
from mechanism.types import Context
from serving.auction.eligibility import PlacementRequest
from serving.auction.offers import Offer
from serving.auction.retrieval.vectors import Vectors
from serving.campaigns.catalogue import import_catalogue, read_catalogue
from serving.policies.protocol import OWN_LIMITS, AnswerLimits, AsyncPolicyBackend, PolicyEvent, TextDelta
from serving.router import Router
from serving.settings import ServeSettings


class _NoPolicy(AsyncPolicyBackend):
    """A policy that is never asked."""

    digest = "0" * 64
    breaker_open = False

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float, limits: AnswerLimits = OWN_LIMITS
    ) -> AsyncGenerator[PolicyEvent, None]:
        yield TextDelta("")

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        return None


@asynccontextmanager
async def builtin_router(folder: Path, relevance_floor: float | None = None) -> AsyncGenerator[Router, None]:
    """Open a router in an empty folder; `relevance_floor` None is the default."""
    settings = ServeSettings(state_dir=folder, ledger="elsewhere")
    if relevance_floor is not None:
        settings = replace(settings, relevance_floor=relevance_floor)
    router = Router(_NoPolicy(), "none", b"s" * 40, settings, shared_encoder())
    import_catalogue(read_catalogue(builtin_catalogue(folder, seed=0)), router.campaigns, datetime.now(UTC))
    await router.marketplace.load()
    try:
        yield router
    finally:
        await asyncio.to_thread(router.events.close)
        router.log.close()
        router.database.close()


async def offers_for(router: Router, asked: Sequence[str], vectors: Sequence[Vectors]) -> tuple[Offer, ...]:
    """Return the offers of a conversation as an answer gets them; `asked` are the reader's messages, oldest first."""
    text, market = "\n".join(asked[-3:]), router.marketplace
    placement = PlacementRequest("benchmark", datetime.now(UTC), router.settings.currency, query=text)
    offers, _ = market.offers(text, vectors, await market.evaluate(placement))
    return offers
