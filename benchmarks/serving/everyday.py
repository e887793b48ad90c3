"""`make bench-everyday`: what a model really answers to everyday questions, and how fast, over HTTP.

Starts a router with the model and the built-in ads, asks 20 held-out everyday questions with a need and 20 without one
after the other, streamed, and writes every answer as it came. The questions are not among those that
`llm-auction pretrain assistant` trains on; they are chosen by a seed, not by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import numpy as np
import typer

from benchmarks.figures import machine_name, write_figures
from cli.local.loop import profile_of
from simulator.questions import Question, split_questions
from tests.support.ports import free_ports

EACH = 20
"""Questions with a need, and without."""
START_S = 300.0


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, its need ("" without one), the answer as a reader gets it, and the time that it took.

    `ads` are the categories of the ads in it; `first_s` is the time to the first text, `tokens_per_s` what followed.
    """

    question: str
    need: str
    answer: str
    ads: tuple[str, ...]
    first_s: float
    tokens_per_s: float


def main(
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/everyday.json"),
    model: Annotated[str, typer.Option(help="Model to ask.")] = "assistant",
    seed: Annotated[int, typer.Option(help="Seed of the choice of questions.")] = 0,
) -> None:
    """Ask, print every answer as Markdown, and write the figures."""
    with TemporaryDirectory() as state:
        [port] = free_ports(1)
        command = [sys.executable, "-m", "cli.main", "serve", "--model", model, "--anonymous"]
        command += ["--candidates", str(profile_of(model, None).offers)]
        command += ["--address-per-minute", "0"]
        with (Path(state) / "router.log").open("wb") as log:
            router = subprocess.Popen([*command, "--port", str(port), "--state-dir", state], stdout=log, stderr=log)
            try:
                answered = ask_all(f"http://127.0.0.1:{port}", chosen(seed))
            finally:
                router.terminate()
                router.wait()
    print_answers(answered)
    needed, plain = [a for a in answered if a.need], [a for a in answered if not a.need]
    figures = {
        "machine": machine_name(),
        "model": model,
        "need_with_ads": sum(bool(a.ads) for a in needed) / len(needed),
        "ads_of_the_need": fitting(needed),
        "non_commercial_with_ads": sum(bool(a.ads) for a in plain) / len(plain),
        "median_first_s": median(a.first_s for a in answered),
        "tokens_per_s": median(a.tokens_per_s for a in answered),
        "answers": [asdict(a) for a in answered],
    }
    write_figures(out, figures)
    typer.echo(json.dumps({k: v for k, v in figures.items() if k != "answers"}))


def chosen(seed: int) -> list[Question]:
    """Draw the questions from those held out, follow-ups included."""
    _, held_out = split_questions()
    order = [held_out[i] for i in np.random.default_rng(seed).permutation(len(held_out))]
    return [q for q in order if q.need][:EACH] + [q for q in order if not q.need][:EACH]


def ask_all(url: str, questions: list[Question]) -> list[Answered]:
    """Ask every question once the router is ready."""
    with httpx.Client(base_url=url, timeout=300.0) as client:
        wait_ready(client)
        return [ask(client, question) for question in questions]


def wait_ready(client: httpx.Client) -> None:
    """Return when the router serves; TimeoutError after START_S."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"the router was not ready within {START_S:.0f} s")


def ask(client: httpx.Client, question: Question) -> Answered:
    """Ask one question, streamed."""
    messages = [{"role": role, "content": text} for role, text in (*question.turns, ("user", question.text))]
    body: dict[str, Any] = {
        "model": "default",
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, tokens, text = time.perf_counter(), 0.0, 0, ""
    ads: list[dict[str, Any]] = []
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
            ads += chunk.get("ads") or []
            for choice in chunk.get("choices", ()):
                piece = choice.get("delta", {}).get("content") or ""
                first = first or (time.perf_counter() - began if piece else 0.0)
                text += piece
    rest = max(time.perf_counter() - began - first, 1e-3)
    shown = {ad["ad_id"]: ad for ad in ads if "ad_id" in ad}
    return Answered(
        question.text,
        question.need or "",
        text,
        tuple(category_of(ad["title"]) for ad in shown.values()),
        first,
        tokens / rest,
    )


def category_of(title: str) -> str:
    """Return the category of a built-in ad."""
    from simulator.world import builtin_categories

    return next((c.name for c in builtin_categories() for ad in c.ads if ad.title == title), "")


def fitting(answered: list[Answered]) -> float:
    """Return the share of the shown ads whose category is the question's."""
    shown = [ad == a.need for a in answered for ad in a.ads]
    return sum(shown) / len(shown) if shown else 0.0


def print_answers(answered: list[Answered]) -> None:
    """Print a Markdown table; addresses of links are left out."""
    typer.echo("| question | need | answer |\n| --- | --- | --- |")
    for a in answered:
        parts = a.answer.split("](")
        text = parts[0] + "".join("]" + part.partition(")")[2] for part in parts[1:])
        typer.echo(f"| {a.question} | {a.need} | {' '.join(text.split())} |".replace("\n", " "))


if __name__ == "__main__":
    typer.run(main)
