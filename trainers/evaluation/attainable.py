"""The best attainable answer of the built-in world as a method of the table (`simulator.optimum`)."""

from __future__ import annotations

from collections.abc import Callable

from mechanism.baselines import BaselineAnswer
from mechanism.errors import ConfigError
from mechanism.types import Context, Generation
from simulator.optimum import best_answer
from simulator.world import World
from trainers.irpo.session import Session


def attainable(session: Session) -> Callable[[Context], BaselineAnswer]:
    """Return the search for the best answer to a test context of the session, priced at the bids.

    Raises:
        ConfigError: if the run's world is imported: the language of its answers is not known.
    """
    if session.config.world.kind != "builtin":
        raise ConfigError("world.kind", session.config.world.kind, "only the built-in world has a known optimum")
    world = World(session.config.world.seed)
    queries = {query.id: query for query in (*world.train_queries, *world.test_queries)}

    def search(context: Context) -> BaselineAnswer:
        query = queries[context.id.partition("#")[0]]
        found = best_answer(world, query, context, session.truth, session.penalty, session.config.preference.lam)
        return BaselineAnswer(Generation(found.answer, (), 0.0, (), finished=True), context.bids(), generations=0)

    return search
