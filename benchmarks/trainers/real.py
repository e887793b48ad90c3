"""`make bench-real`: IRPO on a real language model and imported data, beside all rivals, over several seeds.

What `bench-learning` measures in the built-in world, on real queries and brands. In addition the trained policies
answer held-out everyday questions without a need, alone: no gate and no relevance floor removes an offer before them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from benchmarks.figures import machine_name, write_figures
from benchmarks.trainers.learning import OBJECTIVES, runs_of, train_and_compare

if TYPE_CHECKING:
    from inference.policy import Policy
    from mechanism.types import Context
    from trainers.irpo.session import Session

PLAIN = 40
"""Questions without a need."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers to questions without a need, one after the other: how many showed an ad, and their tokens and seconds."""

    answers: int
    with_ads: int
    tokens: int
    seconds: float


def main(
    path: Annotated[Path, typer.Option(help="Folder of the data set.", exists=True, file_okay=False)],
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/real.json"),
    config: Annotated[str, typer.Option(help="Configuration to train.")] = "webis-assistant",
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0 on.", min=1)] = 2,
    jobs: Annotated[int, typer.Option(help="Runs at once; they share the cores.", min=1)] = 1,
    learned_rivals: Annotated[bool, typer.Option(help="Also train best-of-M distillation and RLOO.")] = True,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key=value.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume earlier runs; keep finished reports.")] = False,
) -> None:
    """Train, evaluate on held-out queries, ask questions without a need, and write the figures."""
    from cli.evaluate import open_session

    variants = ["llm_auction", *(OBJECTIVES if learned_rivals else ())]
    settings = [f"world.path={path.resolve()}", *(set_ or [])]
    figures = train_and_compare(out, config, seeds, jobs, variants, settings, resume)
    answered = []
    for seed in range(seeds):
        typer.echo(f"seed {seed}: {PLAIN} questions without a need")
        session = open_session(str(runs_of(out) / f"seed-{seed}" / "llm_auction"), [])
        answered.append(answer_plain(session, PLAIN))
    figures |= {
        "machine": machine_name(),
        "tokens_per_s": sum(a.tokens for a in answered) / sum(a.seconds for a in answered),
        "non_commercial_with_ads": sum(a.with_ads for a in answered) / sum(a.answers for a in answered),
        "epoch_seconds": [[epoch["seconds"] for epoch in report["epochs"]] for report in figures["reports"]],
    }
    write_figures(out, figures)
    typer.echo(
        f"figures: {out}; {figures['tokens_per_s']:.1f} tokens/s, ads in {figures['non_commercial_with_ads']:.0%} of"
        " the answers to questions without a need"
    )


def answer_plain(session: Session, count: int) -> Answered:
    """Ask the run's best policy, as it is served, `count` questions without a need."""
    from trainers.irpo.loop import best_epoch
    from trainers.irpo.temperature import served_policy

    policy = served_policy(session, best_epoch(session))
    contexts = plain_contexts(session, count)
    answered_by(policy, contexts[:1])  # The first call pays for what is set up once.
    return answered_by(policy, contexts)


def plain_contexts(session: Session, count: int) -> list[Context]:
    """Return held-out everyday questions without a need, each with offers and bids drawn from the run's world."""
    from simulator.questions import split_questions

    _, held_out = split_questions()
    plain = [q for q in held_out if q.need is None and not q.turns][:count]
    rng = np.random.default_rng(session.seed(0, 50))
    queries = session.world.test_queries
    asked = [queries[int(i)] for i in rng.integers(len(queries), size=len(plain))]
    drawn = [session.world.sample_context(q, rng, session.config.world.candidates) for q in asked]
    return [
        replace(context, id=f"plain-{k}", query=question.text, category="")
        for k, (context, question) in enumerate(zip(drawn, plain, strict=True))
    ]


def answered_by(policy: Policy, contexts: Sequence[Context]) -> Answered:
    """Answer one question after the other, as for one reader."""
    began, with_ads, tokens = time.perf_counter(), 0, 0
    for number, context in enumerate(contexts):
        [[generation]] = policy.generate([context], 1, number)
        with_ads += bool(generation.answer.shown())
        tokens += len(generation.token_ids)
    return Answered(len(contexts), with_ads, tokens, time.perf_counter() - began)


if __name__ == "__main__":
    typer.run(main)
