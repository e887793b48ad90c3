"""The clients of the market drill: publishers' servers that ask, readers that click, advertisers that report.

All of them retry what failed with the same Idempotency-Key, on another router, and note what they sent and saw. A
reader's address is in `X-Forwarded-For`: the drill's own address is that of the trusted proxy.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from benchmarks.serving.market_records import FollowedLink, Journal, Reply, SeenAd, SentConversion
from benchmarks.serving.mock_upstream import MODEL
from mechanism.errors import AuctionError

PATIENCE_S = 120.0
"""How long a client tries again before it gives a question or a click up."""
CONVERSION_S = 240.0
ANSWER_S = 20.0
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
PROGRAM = "curl/8.5.0"
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class ClientRefused(AuctionError):
    """A router refused what it has to accept."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a placement: text, the asking publisher's key, the reader's id and address.

    `leaves` lets the client close the connection once it has the ad, and ask again.
    """

    text: str
    secret: str
    placement: str
    reader: str
    address: str
    stream: bool = True
    once: bool = True
    leaves: bool = False
    key: str = field(default_factory=lambda: str(uuid.uuid4()))

    def body(self) -> bytes:
        """Return the request's JSON."""
        ads: dict[str, object] = {"placement": self.placement} if self.placement else {}
        ads |= {"user_id": self.reader, "consent": True} if self.reader else {}
        messages = [{"role": "user", "content": self.text}]
        return msgspec.json.encode({"model": MODEL, "messages": messages, "stream": self.stream, "ads": ads})


class Clients:
    """The clients of all routers; `ports` are the routers', in the order of their numbers."""

    def __init__(self, session: aiohttp.ClientSession, ports: Sequence[int], journal: Journal, seed: int) -> None:
        self.journal = journal
        self.chance = random.Random(seed)
        self._session = session
        self._ports = ports
        self._clicked: Counter[tuple[str, str]] = Counter()

    async def ask(self, question: Question) -> Reply | None:
        """Ask until an answer has arrived whole, and return it; None if none has in time."""
        end, router = time.monotonic() + PATIENCE_S, self._any_router()
        leaves = question.leaves
        while time.monotonic() < end:
            reply = await self.try_to_ask(question, router, leaves=leaves)
            if reply is not None and reply.whole:
                return reply
            leaves, router = False, self._other_router(router)
            self.journal.retries += 1
            await asyncio.sleep(self.chance.uniform(0.2, 1.0))
        self.journal.unanswered += 1
        return None

    async def try_to_ask(self, question: Question, router: int, *, leaves: bool = False) -> Reply | None:
        """Ask one router once, and return what arrived of its answer; None without any of it.

        Raises:
            ClientRefused: if the router refused the request for good.
        """
        reading = _Reading()
        headers = {"Authorization": f"Bearer {question.secret}", "Content-Type": "application/json"}
        headers |= {"Idempotency-Key": question.key} if question.once else {}
        try:
            async with asyncio.timeout(ANSWER_S):
                url = self._url(router, "/v1/chat/completions")
                async with self._session.post(url, data=question.body(), headers=headers) as response:
                    if response.status == 200:
                        reading.stored = "Idempotency-Replayed" in response.headers
                        await reading.read(response, stream=question.stream, leaves=leaves)
                    elif response.status not in (409, 429, 500, 502, 503, 504):
                        raise ClientRefused(f"{response.status}: {(await response.text())[:300]}")
        except _FAILURES:
            pass
        if not reading.auction:
            return None
        reply = Reply(
            key=question.key,
            auction=reading.auction,
            reader=question.reader,
            placement=question.placement,
            router=router,
            ads=tuple(reading.ads),
            whole=reading.whole,
            stored=reading.stored,
            ended=time.time(),
        )
        self.journal.replies.append(reply)
        return reply

    async def follow(self, reply: Reply, ad: SeenAd, address: str, *, program: bool = False) -> FollowedLink:
        """Follow a link until a router redirects."""
        pair = (reply.reader or address, ad.ad)
        first = not self._clicked[pair]
        self._clicked[pair] += not program
        began, confirmed, router = time.time(), False, self._any_router()
        while not confirmed and time.time() - began < PATIENCE_S:
            confirmed = await self.try_to_follow(ad, address, router, key=reply.key, program=program)
            if not confirmed:
                self.journal.retries += 1
                router = self._other_router(router)
                await asyncio.sleep(self.chance.uniform(0.2, 1.0))
        link = FollowedLink(
            click=f"{reply.auction}:{ad.ad}",
            auction=reply.auction,
            ad=ad.ad,
            campaign=ad.campaign,
            placement=reply.placement,
            first=first and self._clicked[pair] == 1,  # while it was tried again, another click may have come first
            program=program,
            confirmed=confirmed,
            at=began,
        )
        self.journal.clicks.append(link)
        return link

    async def try_to_follow(self, ad: SeenAd, address: str, router: int, *, key: str, program: bool = False) -> bool:
        """Follow a link on one router once; return whether it redirected.

        Raises:
            ClientRefused: if the router does not know the link.
        """
        headers = {"User-Agent": PROGRAM if program else BROWSER, "Idempotency-Key": key}
        headers |= {"X-Forwarded-For": f"203.0.113.9, {address}"}  # the first one forged
        try:
            async with asyncio.timeout(ANSWER_S):
                url = self._url(router, urlsplit(ad.url).path)
                async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                    if response.status in (404, 410):
                        raise ClientRefused(f"{response.status}: the link of {ad.ad}")
                    return response.status == 302
        except _FAILURES:
            return False

    async def convert(self, link: FollowedLink, secret: str, value: int, *, twice: bool) -> None:
        """Report a conversion until a router has it, and once more if it is to be sent `twice`."""
        sent = {"click_id": link.click, "type": "purchase", "id": f"order-{link.click}", "value_micros": value}
        end, confirmed = time.monotonic() + CONVERSION_S, False
        while not confirmed and time.monotonic() < end:
            router = self._any_router()
            sendings = [router, self._other_router(router)] if twice else [router]
            confirmed = any(await asyncio.gather(*(self._report(sent, secret, to) for to in sendings)))
            if not confirmed:
                self.journal.retries += 1
                await asyncio.sleep(self.chance.uniform(0.5, 2.0))
        self.journal.conversions.append(
            SentConversion(click=link.click, campaign=link.campaign, value=value, confirmed=confirmed)
        )

    async def read(self, path: str, secret: str) -> Any:
        """Return the JSON of a report, from the first router.

        Raises:
            ClientRefused: if it is no 200.
        """
        headers = {"Authorization": f"Bearer {secret}"}
        async with self._session.get(self._url(0, path), headers=headers) as response:
            if response.status != 200:
                raise ClientRefused(f"{path}: {response.status}: {(await response.text())[:300]}")
            return await response.json()

    async def waiting(self, router: int) -> int:
        """Return how many events of a router the log does not have."""
        async with self._session.get(self._url(router, "/metrics")) as response:
            lines = (await response.text()).splitlines()
        gauges = ("llm_auction_events_buffered ", "llm_auction_events_waiting ")
        return sum(round(float(line.split()[1])) for line in lines if line.startswith(gauges))

    async def _report(self, sent: Mapping[str, object], secret: str, router: int) -> bool:
        """Send one conversion; False while its click is not on record, too."""
        body = msgspec.json.encode({"conversions": [{**sent, "currency": "EUR"}]})
        headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        try:
            async with asyncio.timeout(ANSWER_S):
                url = self._url(router, "/v1/conversions")
                async with self._session.post(url, data=body, headers=headers) as response:
                    return response.status == 200
        except _FAILURES:
            return False

    def _url(self, router: int, path: str) -> str:
        return f"http://127.0.0.1:{self._ports[router]}{path}"

    def _any_router(self) -> int:
        return self.chance.randrange(len(self._ports))

    def _other_router(self, router: int) -> int:
        return (router + self.chance.randrange(1, len(self._ports))) % len(self._ports)


class _Reading:
    """What a client has read of one answer."""

    def __init__(self) -> None:
        self.auction = ""
        self.ads: list[SeenAd] = []
        self.whole = self.stored = False

    async def read(self, response: aiohttp.ClientResponse, *, stream: bool, leaves: bool) -> None:
        """Read an answer to its end; a client that `leaves` closes the connection at the first ad."""
        if not stream:
            whole = msgspec.json.decode(await response.read())
            self.auction = whole["id"].removeprefix("chatcmpl-")
            self.ads = [_seen(ad) for ad in whole["ads"]]
            self.whole = True
            return
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                self.whole = True
            elif line.startswith(b"data: "):
                chunk = msgspec.json.decode(line[6:])
                self.auction = self.auction or chunk.get("id", "").removeprefix("chatcmpl-")
                if (ad := chunk.get("ad")) is not None:
                    self.ads.append(_seen(ad))
            if leaves and self.ads:
                response.close()
                return


def _seen(ad: Mapping[str, Any]) -> SeenAd:
    return SeenAd(ad["ad_id"], ad["campaign_id"], ad["click_url"])
