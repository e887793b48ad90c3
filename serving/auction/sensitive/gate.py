"""The gate: one decision on a whole conversation, from the phrases and the meaning of the reader's messages.

Phrases of the topics in `CERTAIN` always count. Those of others are also words of shops, so that the classifier can
overrule them, and it finds what no phrase does. A message after another counts as the classifier reads it alone and
with the messages before it, whichever is more harmless: "the darkest of them" is about coffee.

Recent messages weigh more: a topic that was last named four messages ago no longer keeps ads away, except for a crisis,
which does for the whole conversation. Messages of the system and of the assistant are not judged: they are the
publisher's and the model's words.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from mechanism.errors import ConfigError
from serving.auction.retrieval.conversation import conversation_vector
from serving.auction.retrieval.vectors import Vectors
from serving.auction.sensitive.meaning import Meaning, Reading
from serving.auction.sensitive.rules import Rules, is_english, shared_rules
from serving.auction.sensitive.topics import ACUTE, CERTAIN, NEVER_ALLOWED, PUBLISHER_CODE, Topic
from serving.lexicon import plain

DECAY = 0.8
"""Weight of a message relative to the one after it."""
BAR = 0.5
"""Weight from which a topic counts: the last four messages with `DECAY`."""
JUDGED = 50
"""Messages of a conversation that are read, the newest; a crisis before them is out of sight."""
CONTEXT = 3
"""Messages that one is read with, itself included."""
CACHED = 20_000
STRICT_MARGIN = 1.0
"""How far below the threshold, in logits, a topic counts without a need, or where the publisher is strict."""
NEEDLESS = 0.5
"""How far below the bar of a need, in logits, a message surely has none."""
OVERRULED = 1.5
"""How far below the threshold, in logits, a message is surely of a shop, whatever its phrases."""
MOST_ORDER = {topic: number for number, topic in enumerate(Topic)}


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a publisher adds to the gate: it can only widen it.

    `terms` are words or phrases of its own; `strict` lets weaker signs of meaning count.
    """

    terms: tuple[str, ...] = ()
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a conversation gets no ads: a reason code, empty where it may have them; the topic, if it is one of ours."""

    code: str = ""
    topic: Topic | None = None

    @property
    def is_acute(self) -> bool:
        """Whether help lines belong to the answer."""
        return self.topic in ACUTE


NONE = Verdict()


class SensitiveGate:
    """Judges conversations.

    `allowed` are the topics that an administrator opens to ads. Without `meaning` the rules decide alone. Belongs to
    the event loop; judging takes microseconds for messages that were seen before.

    Raises:
        ConfigError: if a topic is unknown or must never be allowed.
    """

    def __init__(self, meaning: Meaning | None = None, allowed: Iterable[str] = (), rules: Rules | None = None) -> None:
        self._meaning = meaning
        self._rules = rules or shared_rules()
        self._allowed = frozenset(map(_allowable, allowed))
        self._seen: OrderedDict[bytes, tuple[frozenset[Topic], Reading | None]] = OrderedDict()

    def judge(
        self, messages: Sequence[str], vectors: Sequence[Vectors | None], publisher: Sensitivity | None = None
    ) -> Verdict:
        """Judge the reader's messages, oldest first; `vectors` belong to them, None where one is not known."""
        publisher = publisher or Sensitivity()
        weights: dict[Topic, float] = {}
        recent = list(zip(messages, vectors, strict=True))[-JUDGED:]
        for age in range(len(recent)):
            end = len(recent) - age
            for topic in self._topics(recent[max(0, end - CONTEXT) : end], publisher.strict):
                weight = 1.0 if topic in ACUTE else DECAY**age
                weights[topic] = max(weight, weights.get(topic, 0.0))
        found = [topic for topic, weight in weights.items() if weight >= BAR and topic not in self._allowed]
        if found:
            topic = min(found, key=lambda t: MOST_ORDER[t])
            return Verdict(topic.code, topic)
        if publisher.terms and _names_one(recent, publisher.terms):
            return Verdict(PUBLISHER_CODE)
        return NONE

    def _topics(self, recent: list[tuple[str, Vectors | None]], strict: bool) -> frozenset[Topic]:
        """Return the topics of the last of some messages; those before it are its context."""
        message, vector = recent[-1]
        phrases, reading = self._read(message)
        if self._meaning is None or reading is None:
            return phrases
        margin, need = self._meaning.sensitivity(reading, vector), self._meaning.need(reading, vector)
        if len(recent) > 1:
            together = conversation_vector([known for _, known in recent])
            _, joined = self._read("\n".join(text for text, _ in recent))
            if joined is not None:
                margin = min(margin, self._meaning.sensitivity(joined, together))
                need = max(need, self._meaning.need(joined, together))
        if margin <= -OVERRULED and not strict:
            return phrases & CERTAIN
        # A message without a need gets no candidates anyway, so that a weaker sign costs nothing there.
        if margin > (-STRICT_MARGIN if strict or need <= -NEEDLESS else 0.0):
            return phrases | {self._meaning.topic(reading, vector)}
        return phrases

    def _read(self, message: str) -> tuple[frozenset[Topic], Reading | None]:
        """Return the topics of a message's phrases, and the classifier's reading of its text."""
        key = blake2b(message.encode(errors="surrogatepass"), digest_size=16).digest()
        found = self._seen.get(key)
        if found is None:
            phrases = self._rules.topics(message)
            reading = self._meaning.read(message, phrases, is_english(message)) if self._meaning is not None else None
            found = self._seen[key] = phrases, reading
            if len(self._seen) > CACHED:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(key)
        return found


def _allowable(name: str) -> Topic:
    open_topics = ", ".join(topic.value for topic in Topic if topic not in NEVER_ALLOWED)
    try:
        topic = Topic(name)
    except ValueError:
        raise ConfigError("allowed_topics", name, f"use one of {open_topics}") from None
    if topic in NEVER_ALLOWED:
        raise ConfigError("allowed_topics", name, f"this topic never has ads; open to them are {open_topics}")
    return topic


def _names_one(recent: list[tuple[str, Vectors | None]], terms: tuple[str, ...]) -> bool:
    wanted = [plain(term) for term in terms if term.strip()]
    return any(term in plain(message) for message, _ in recent for term in wanted)
