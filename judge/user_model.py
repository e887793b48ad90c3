"""The user model: a language model in the role of the user, which gives click feedback on answers.

A reply that fails the checks of `judge.click_feedback` is sent back with its fault. Accepted replies are cached, so a
stopped run continues without paying twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from judge.cache import ReplyCache
from judge.click_feedback import ClickFeedback, feedback_messages, feedback_schema, parse_feedback, rejection_messages
from judge.client import ChatClient
from mechanism.errors import InputError, JudgeError
from mechanism.types import AdId, Answer, Context

log = structlog.get_logger(__name__)

SCHEMA_NAME = "click_feedback"


class UserModel:
    """A user model behind `client`, with `repairs` further attempts after a rejected reply.

    Without a `cache` every call is a request to the endpoint.
    """

    def __init__(self, client: ChatClient, cache: ReplyCache | None = None, repairs: int = 2) -> None:
        self.client = client
        self.cache = cache
        self.repairs = repairs

    def click_feedback(self, context: Context, answer: Answer, sample: int = 0) -> ClickFeedback:
        """Return clicks on exactly the ads that `answer` shows, in their order, with reasons and grades.

        `sample` distinguishes repeated draws of the same feedback.

        Raises:
            InputError: if the answer shows an ad that is not a candidate of the context.
            JudgeError: if the endpoint fails, its budget is spent, or every reply is rejected.
        """
        shown = answer.shown()
        foreign = set(shown) - {c.ad.id for c in context.candidates}
        if foreign:
            raise InputError(f"answer to {context.id}", sorted(foreign)[0], "judge an answer with its own context")
        messages = feedback_messages(context, answer)
        params = self.client.params(SCHEMA_NAME, feedback_schema(shown), sample)
        key = ReplyCache.key(self.client.settings.model, messages, params)
        if (cached := self._cached(key, shown)) is not None:
            return cached
        conversation, fault = messages, ""
        for attempt in range(1, self.repairs + 2):
            if attempt > 1:
                self.client.meter.count_retry()
            reply = self.client.complete(conversation, params)
            try:
                feedback = parse_feedback(reply, shown)
            except ValueError as error:
                fault = str(error)
                log.warning("judge.reply_rejected", attempt=attempt, attempts=self.repairs + 1)
                # Only the latest reply is sent along: a growing pile of bad examples misleads small models.
                conversation = [*messages, *rejection_messages(reply, fault)]
                continue
            if self.cache:
                self.cache.put(key, reply)
            return feedback
        raise JudgeError(
            f"judge {self.client.settings.model!r}: {SCHEMA_NAME} outside the schema {self.repairs + 1} times, last: "
            f"{fault}: use a model that follows JSON schemas, or raise max_tokens or repairs"
        )

    def click_feedbacks(self, pairs: Sequence[tuple[Context, Answer]], sample: int = 0) -> list[ClickFeedback]:
        """Return feedback on many answers, in order, asking for `concurrency` of them at a time.

        The first failure cancels the requests that have not started and is raised; replies accepted before it are in
        the cache.
        """
        pool = ThreadPoolExecutor(self.client.settings.concurrency, thread_name_prefix="judge")
        try:
            waiting = [pool.submit(self.click_feedback, context, answer, sample) for context, answer in pairs]
            return [future.result() for future in waiting]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _cached(self, key: str, shown: Sequence[AdId]) -> ClickFeedback | None:
        reply = self.cache.get(key) if self.cache else None
        if reply is None:
            return None
        try:
            feedback = parse_feedback(reply, shown)
        except ValueError:
            return None  # a damaged entry: the next accepted reply overwrites it
        self.client.meter.count_cached()
        return feedback
