"""Every method of the table on the same held-out contexts: tuned, played, and measured under the true probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from inference.encoder import shared_encoder
from inference.sampling import SamplingSettings
from mechanism.baselines import BaselineAnswer
from mechanism.objective import reward
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Context
from trainers.evaluation import methods
from trainers.evaluation.best_of_many import draw, play_mosaic
from trainers.evaluation.metrics import AnswerRecord
from trainers.evaluation.report import Tuning
from trainers.evaluation.rivals import Rival
from trainers.evaluation.tuning import Tuned, grids, mosaic_grid, tune, tune_mosaic
from trainers.irpo.loop import SECONDS, best_epoch
from trainers.irpo.session import Session
from trainers.irpo.temperature import served_policy
from trainers.reward.quality import answer_qualities

MOSAIC_SAMPLES: Final = (5, 20, 50)
"""Numbers of samples M at which MOSAIC is played, up to `evaluation.mosaic_samples`."""


@dataclass(frozen=True, slots=True)
class Entrants:
    """What is played beside the run's own policy and the tuned rivals.

    `learned` are runs of other objectives on the same rollouts by method name, each played at its best epoch as it is
    served; `oracle` is a run trained on true probabilities. `optimum` gives the best attainable answer to a context.
    """

    learned: Mapping[str, Session] = field(default_factory=dict)
    oracle: Session | None = None
    optimum: Callable[[Context], BaselineAnswer] | None = None


@dataclass(slots=True)
class Findings:
    """Records and answers by method, of the methods run so far, and the tuned rivals."""

    records: dict[str, list[AnswerRecord]] = field(default_factory=dict)
    answers: dict[str, tuple[BaselineAnswer, ...]] = field(default_factory=dict)
    rivals: dict[str, Rival] = field(default_factory=dict)
    tuning: dict[str, Tuning] = field(default_factory=dict)

    def add(self, session: Session, name: str, contexts: Sequence[Context], played: methods.Played) -> None:
        """Add one method's answers and their records."""
        self.answers[name] = played.answers
        self.records[name] = records_of(session, name, contexts, played)


def arena_of(session: Session, last: int) -> methods.Arena:
    """Return what rivals of a run are given; `last` is the epoch of its latest pCTR model."""
    return methods.Arena(session.policy(0), session.predictor(last), session.penalty, session.config.preference.lam)


def play_all(
    session: Session,
    arena: methods.Arena,
    contexts: Sequence[Context],
    chosen: int,
    entrants: Entrants,
    report: Callable[[str], None],
) -> Findings:
    """Tune the rivals on validation contexts, and play every method of the table; `chosen` is our epoch."""
    found, seed = Findings(), session.seed(0, 40)
    held = methods.with_ids(session.contexts.validation())
    for name, grid in grids(arena.policy.sampling).items():
        report(f"{name}: tuning, {len(grid)} settings")
        tuned = tune(arena, grid, held, seed, session.config.evaluation)
        found.rivals[name], found.tuning[name] = tuned.chosen, described(tuned)
        report(name)
        found.add(session, name, contexts, tuned.chosen.play(arena, contexts, seed))
    _play_mosaic(session, arena, found, held, contexts, seed, report)
    for name, other in entrants.learned.items():
        report(f"{name}, epoch {best_epoch(other)}")
        found.add(session, name, contexts, methods.play_policy(served_policy(other, best_epoch(other)), contexts, seed))
        found.tuning[name] = own_budget(other, best_epoch(other))
    report(f"llm_auction, epoch {chosen}")
    found.add(session, "llm_auction", contexts, methods.play_policy(served_policy(session, chosen), contexts, seed))
    found.tuning["llm_auction"] = own_budget(session, chosen)
    if (oracle := entrants.oracle) is not None:
        report("oracle")
        played = methods.play_policy(served_policy(oracle, best_epoch(oracle)), contexts, seed)
        found.add(session, "oracle", contexts, played)
    if entrants.optimum is not None:
        report("optimum")
        best = tuple(entrants.optimum(context) for context in contexts)
        found.add(session, "optimum", contexts, methods.Played(best, 0.0))
    return found


def _play_mosaic(
    session: Session,
    arena: methods.Arena,
    found: Findings,
    held: Sequence[Context],
    contexts: Sequence[Context],
    seed: int,
    report: Callable[[str], None],
) -> None:
    most = session.config.evaluation.mosaic_samples
    numbers = [m for m in MOSAIC_SAMPLES if m <= most]
    if not numbers:
        return
    grid = mosaic_grid(arena.policy.sampling)
    report(f"mosaic: tuning, {len(grid)} settings of {max(numbers)} answers a query")
    tuned = tune_mosaic(arena, grid, held, numbers, seed, session.config.evaluation)
    for sampling in dict.fromkeys(t.chosen for t in tuned.values()):
        own = [m for m, t in tuned.items() if t.chosen == sampling]
        report(f"mosaic, {max(own)} answers a query")
        drawn = draw(arena, contexts, max(own), sampling, seed)
        for m in own:
            found.tuning[f"mosaic_{m}"] = described(tuned[m])
            found.add(session, f"mosaic_{m}", contexts, play_mosaic(arena, contexts, drawn, m, seed))


def described(tuned: Tuned[Rival] | Tuned[SamplingSettings]) -> Tuning:
    """Return what the report says of a rival's settings."""
    return Tuning(tried=tuned.tried, chosen=str(tuned.chosen), learned_reward=tuned.reward)


def own_budget(session: Session, epoch: int) -> Tuning:
    """Return the settings that a trained policy chose from on validation contexts: epochs, then temperatures."""
    temperatures = session.config.evaluation.temperatures
    temperature = served_policy(session, epoch).sampling.temperature
    tried = 1 + session.config.epochs + len(temperatures)
    chosen = f"epoch {epoch}, temperature {temperature:g}"
    if (seconds := train_seconds(session)) is not None:
        # Beside equal samples: what they cost.
        chosen += f", {seconds:.0f} s of training"
    return Tuning(tried=tried, chosen=chosen, learned_reward=None)


def train_seconds(session: Session) -> float | None:
    """Return the seconds that the run's phases took, all attempts at finished phases included."""
    return float(sum(session.run.read_json(SECONDS).values())) if session.run.exists(SECONDS) else None


def records_of(session: Session, name: str, contexts: Sequence[Context], played: methods.Played) -> list[AnswerRecord]:
    """Return one record per context under the simulator's true probabilities."""
    generations = [own.generation for own in played.answers]
    items = [(c.query, g.answer, g.finished) for c, g in zip(contexts, generations, strict=True)]
    qualities = answer_qualities(items, shared_encoder().encode)
    records = []
    for context, own, quality in zip(contexts, played.answers, qualities, strict=True):
        answer = own.generation.answer
        causes = session.truth.causes(context, answer)
        ctr = {ad: cause.probability for ad, cause in causes.items()}
        records.append(
            AnswerRecord(
                query_id=context.id,
                method=name,
                revenue=sum(own.click_prices[ad] * p for ad, p in ctr.items()) / MICROS_PER_POINT,
                reward=reward(answer, context.bids(), ctr, session.penalty, session.config.preference.lam),
                clicks_expected=sum(ctr.values()),
                relevance_sum=sum(c.relevance for c in causes.values()),
                ads=len(ctr),
                invalid=len(answer.faults),
                quality=quality,
                generations=own.generations,
                seconds=played.seconds / len(contexts),
            )
        )
    return records
