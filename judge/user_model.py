"""The user model: it turns profiles into queries and answers into click feedback, each reply checked before use.

A reply outside the schema, or about other ads than the shown ones, is sent back with the fault named; after
`repairs` such rounds JudgeError is raised. Accepted replies are cached, so a stopped run goes on where it was.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import ValidationError

from judge.cache import ReplyCache
from judge.client import ChatClient
from judge.prompts import Messages, feedback_messages, queries_messages, rejection_messages
from judge.schemas import ClickFeedback, GeneratedQueries, Reply, feedback_schema, queries_schema
from mechanism.errors import InputError, JudgeError
from mechanism.types import AdId, Answer, Context, Profile

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Reply)
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


class UserModel:
    """The judge. `repairs` is how often a rejected reply may be mended; `cache` None asks the endpoint every time."""

    def __init__(self, client: ChatClient, cache: ReplyCache | None = None, repairs: int = 2) -> None:
        self.client = client
        self.cache = cache
        self.repairs = repairs

    def generate_queries(self, profile: Profile, n: int, sample: int = 0) -> tuple[str, ...]:
        """`n` distinct questions that the user of `profile` would ask. `sample` tells repeated draws apart.

        Raises JudgeError.
        """
        if n < 1:
            raise InputError("n", n, "ask for at least one query")

        def check(reply: GeneratedQueries) -> None:
            if len(reply.queries) != n:
                raise ValueError(f"give exactly {n} queries, not {len(reply.queries)}")

        messages = queries_messages(profile, n)
        return self._ask("queries", messages, queries_schema(n), GeneratedQueries, check, sample).queries

    def click_feedback(self, context: Context, answer: Answer, sample: int = 0) -> ClickFeedback:
        """Clicks on exactly the ads that `answer` shows, in their order, with reasons and grades.

        Raises InputError when the answer shows an ad that is no candidate of the context, JudgeError when the judge
        fails.
        """
        shown = answer.shown()
        foreign = set(shown) - {c.ad.id for c in context.candidates}
        if foreign:
            raise InputError(f"answer to {context.id}", sorted(foreign)[0], "judge an answer with its own context")

        def check(reply: ClickFeedback) -> None:
            check_ids([c.ad_id for c in reply.clicks], shown)

        messages = feedback_messages(context, answer)
        reply = self._ask("click_feedback", messages, feedback_schema(shown), ClickFeedback, check, sample)
        by_id = {c.ad_id: c for c in reply.clicks}
        return reply.model_copy(update={"clicks": tuple(by_id[i] for i in shown)})

    def click_feedbacks(self, pairs: Sequence[tuple[Context, Answer]], sample: int = 0) -> list[ClickFeedback]:
        """Feedback on many answers, in order, `concurrency` at a time.

        The first failure stops what has not begun and is raised; replies accepted until then are in the cache.
        """
        pool = ThreadPoolExecutor(self.client.settings.concurrency, thread_name_prefix="judge")
        try:
            waiting = [pool.submit(self.click_feedback, context, answer, sample) for context, answer in pairs]
            return [future.result() for future in waiting]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(
        self,
        name: str,
        messages: Messages,
        schema: Mapping[str, Any],
        kind: type[R],
        check: Callable[[R], None],
        sample: int,
    ) -> R:
        params = self.client.params(name, schema, sample)
        key = ReplyCache.key(self.client.settings.model, messages, params)
        cached = self.cache.get(key) if self.cache else None
        if cached is not None:
            accepted, _ = _accept(cached, kind, check)
            if accepted is not None:
                self.client.meter.hit()
                return accepted
        conversation, fault = list(messages), ""
        for round_ in range(self.repairs + 1):
            if round_:
                self.client.meter.retry()
            reply = self.client.complete(conversation, params)
            accepted, fault = _accept(reply, kind, check)
            if accepted is not None:
                if self.cache:
                    self.cache.put(key, reply)
                return accepted
            log.warning("judge: %s rejected, round %d of %d", name, round_ + 1, self.repairs + 1)
            # Only the latest reply goes along: a growing pile of bad examples misleads small models.
            conversation = [*messages, *rejection_messages(reply, fault)]
        raise JudgeError(
            f"judge {self.client.settings.model!r}: {name} outside the schema {self.repairs + 1} times, last: {fault}: "
            "use a model that follows JSON schemas, or raise max_tokens or repairs"
        )


def check_ids(judged: Sequence[AdId], shown: Sequence[AdId]) -> None:
    """Raise ValueError, naming what is wrong, unless every shown ad is judged exactly once and no other is."""
    faults = []
    if unknown := sorted(set(judged) - set(shown)):
        faults.append(f"{len(unknown)} judged ads are not in the answer")
    if missing := [i for i in shown if i not in judged]:
        faults.append(f"no judgement of {', '.join(missing)}")
    if twice := sorted({i for i in judged if judged.count(i) > 1 and i in shown}):
        faults.append(f"judged more than once: {', '.join(twice)}")
    if faults:
        raise ValueError(f"{'; '.join(faults)} (the answer shows: {', '.join(shown) or 'no ad'})")


def _accept(text: str, kind: type[R], check: Callable[[R], None]) -> tuple[R | None, str]:
    """(reply, "") or (None, fault). Faults name places in the schema and never quote the reply."""
    fenced = _FENCE.fullmatch(text)
    try:
        reply = kind.model_validate(json.loads(fenced.group(1) if fenced else text))
        check(reply)
    except (json.JSONDecodeError, RecursionError):
        return None, "it is not one JSON value"
    except ValidationError as error:
        # A place can hold a made-up key of the reply: only places that the schema knows are told.
        known = {"clicks", "queries", "reason", "clicked", "ad_id", "relevance", "nativeness", "answer_quality"}
        parts = [
            ".".join(str(p) for p in e["loc"] if isinstance(p, int) or p in known) + f": {e['msg']}"
            for e in error.errors(include_input=False, include_url=False)[:3]
        ]
        return None, "; ".join(parts)
    except ValueError as error:
        return None, str(error)
    return reply, ""
