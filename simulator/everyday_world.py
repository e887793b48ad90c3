"""The built-in ads and users, who ask everyday questions in place of the world's templates."""

from __future__ import annotations

import numpy as np

from mechanism.types import Profile
from simulator.questions import Question, split_questions
from simulator.world import Query, World


class EverydayWorld(World):
    """A world whose users ask as people type: a third of the questions have no commercial need.

    Test queries are questions that `llm-auction pretrain assistant` does not train on.
    """

    def _queries(self, profile: Profile, rng: np.random.Generator) -> list[Query]:
        training, held_out = split_questions()
        *first, last = super()._queries(profile, rng)
        return [*(_asked(q, training, rng) for q in first), _asked(last, held_out, rng)]


def _asked(query: Query, questions: list[Question], rng: np.random.Generator) -> Query:
    question = questions[int(rng.integers(len(questions)))]
    return Query(query.id, question.text, query.profile, question.need or "", turns=question.turns)
