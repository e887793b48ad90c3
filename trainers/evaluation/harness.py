"""The evaluation of a run: every mechanism on the same held-out contexts, then the properties, then one report.

Money, reward, clicks and relevance are the simulator's expectations (its true probabilities), so that no click noise
separates the methods; training never sees them unless the run is an oracle's. The report names the machine by its
kind, never by its name or user.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from inference.policy import Policy
from mechanism.types import Context
from trainers.artifacts.run_directory import EVALUATION
from trainers.evaluation import methods
from trainers.evaluation.comparison import Entrants, Findings, arena_of, play_all, train_seconds
from trainers.evaluation.equilibria import PlayRival
from trainers.evaluation.metrics import best_single_generation, ratios, summarise
from trainers.evaluation.properties import measure_properties
from trainers.evaluation.report import (
    Calibration,
    Epoch,
    Machine,
    Meta,
    PerQuery,
    Report,
    Sample,
    compared,
    figures,
)
from trainers.irpo.loop import SECONDS, best_epoch
from trainers.irpo.phases import FIGURES, finished
from trainers.irpo.session import Session
from trainers.irpo.temperature import served_policy

PACKAGES: Final = ("llm-auction", "torch", "transformers", "trl", "deepspeed", "numpy")
"""Packages whose versions can change a figure."""

_CPUINFO: Final = Path("/proc/cpuinfo")
SAMPLE_ANSWERS = 8


def evaluate_run(
    session: Session,
    report: Callable[[str], None],
    command: str,
    entrants: Entrants | None = None,
    epoch: int | None = None,
) -> Report:
    """Evaluate a run's best epoch, or `epoch`, against its base, the rivals and `entrants`.

    `report` takes progress lines, `command` is recorded.
    """
    chosen = best_epoch(session) if epoch is None else epoch
    last = max(e for e in range(1, session.config.epochs + 1) if finished(session, "reward_model", e))
    contexts = methods.with_ids(session.test_contexts(session.config.evaluation.queries))
    arena = arena_of(session, last)
    found = play_all(session, arena, contexts, chosen, entrants or Entrants(), report)
    auction = found.rivals["gsp"]
    games: dict[str, PlayRival] = {"gsp": lambda own, seed: auction.play(arena, own, seed).answers}
    result = _report(session, found, contexts, served_policy(session, chosen), "llm_auction", command, report, games)
    return result.model_copy(
        update={
            "epochs": _epochs(session),
            "calibration": _calibration(session, last),
            "train_seconds": train_seconds(session),
        }
    )


def evaluate_model(session: Session, method: str, report: Callable[[str], None], command: str) -> Report:
    """Evaluate the session's base model alone, under the name of `method`.

    Without a pCTR model there are no baselines.
    """
    contexts = methods.with_ids(session.test_contexts(session.config.evaluation.queries))
    found = Findings()
    report(f"{session.config.base}")
    found.add(session, method, contexts, methods.play_policy(session.policy(0), contexts, session.seed(0, 40)))
    return _report(session, found, contexts, session.policy(0), method, command, report)


def _report(
    session: Session,
    found: Findings,
    contexts: Sequence[Context],
    ours: Policy,
    method: str,
    command: str,
    report: Callable[[str], None],
    games: Mapping[str, PlayRival] | None = None,
) -> Report:
    """Measure the properties of `ours` (the policy of `method`) and build the report.

    `games` are the rivals that are played at equilibrium too.
    """
    seed = session.seed(0, 40)
    measured = measure_properties(session, found.answers[method], contexts, ours, seed, report, games)
    summaries = {name: summarise(records, seed) for name, records in found.records.items()}
    report("writing the report")
    return Report(
        meta=Meta(
            config=session.config.name,
            base=session.config.base,
            seed=session.config.seed,
            queries=len(contexts),
            candidates=len(contexts[0].candidates),
            command=command,
            machine=machine_summary(torch.cuda.get_device_name() if torch.cuda.is_available() else ""),
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            versions=package_versions(),
            digest=ours.digest,
        ),
        methods={name: figures(metrics) for name, metrics in summaries.items()},
        ratios=compared(ratios(found.records, seed)),
        best_single_generation=best_single_generation(found.records),
        tuning=found.tuning,
        per_query={name: PerQuery.of(records) for name, records in found.records.items()},
        equilibrium=None if measured.equilibrium is None else measured.equilibrium.to_dict(),
        properties=measured.properties,
        allocation=measured.allocation,
        continuity_curve=measured.continuity_curve,
        samples=_samples(session, found, contexts),
        constrained_answers=sum(r.generations for own in found.records.values() for r in own),
    )


def _epochs(session: Session) -> tuple[Epoch, ...]:
    rows = []
    spent: dict[str, float] = session.run.read_json(SECONDS) if session.run.exists(SECONDS) else {}
    for epoch in range(session.config.epochs + 1):
        if not finished(session, "evaluation", epoch):
            break
        v = session.read_epoch_json(EVALUATION, epoch)
        quality = reward_figures(session, epoch) if epoch > 0 else {}
        rows.append(
            Epoch(
                epoch=epoch,
                revenue_per_query=v["revenue"],
                reward_per_query=v["true_reward"],
                pctr_auc=quality.get("auc"),
                pctr_calibration_error=quality.get("calibration_error"),
                kl_to_base=v["kl_to_base"],
                ads_per_answer=v["ads_per_answer"],
                learned_reward=v["learned_reward"],
                seconds=spent.get(str(epoch)),
            )
        )
    return tuple(rows)


def reward_figures(session: Session, epoch: int) -> dict[str, Any]:
    """Return the quality figures of an epoch's pCTR model; empty for an oracle's run."""
    figures: dict[str, Any] = session.run.phase("reward_model", epoch).read_json(FIGURES)
    return figures


def _calibration(session: Session, epoch: int) -> Calibration | None:
    curve = reward_figures(session, epoch).get("curve")
    if curve is None:
        return None
    return Calibration(
        predicted=tuple(curve["predicted"]), observed=tuple(curve["observed"]), count=tuple(map(int, curve["count"]))
    )


def _samples(session: Session, found: Findings, contexts: Sequence[Context]) -> tuple[Sample, ...]:
    rng = np.random.default_rng(session.seed(0, 41))
    picked = rng.permutation(len(contexts))[: SAMPLE_ANSWERS // 2]
    samples = []
    for k in picked:
        for name in [n for n in ("pretrained", "llm_auction") if n in found.answers]:
            answer = found.answers[name][k].generation.answer
            samples.append(Sample.of(contexts[k], name, answer, session.truth.probabilities(contexts[k], answer)))
    return tuple(samples)


def machine_summary(accelerator: str = "") -> Machine:
    """Describe this machine's kind; `accelerator` as the caller names it, such as "1 x NVIDIA H100"."""
    return Machine(cpu=_cpu(), cores=_cores(), ram_gib=_ram_gib(), accelerator=accelerator)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed PACKAGES."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpu() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text("utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> int:
    """Return the cores that this process may use, in a container fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ram_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return round(size / 2**30, 1) if size > 0 else None
