"""`llm-auction run`: the whole story on one machine: serve, train, compare, promote, and retrain from the log for ever.

A second call resumes: nothing that was answered, clicked, charged, judged or trained is lost or done twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechanism.errors import GuardError

if TYPE_CHECKING:
    from cli.local.loop import Loop
    from trainers.config import RunConfig

SHOW_S = 60.0
"""How often the table is printed where there is no terminal to keep it in."""


def run(
    config: Annotated[str, typer.Option(help="Configuration to train.")] = "quick",
    out: Annotated[Path, typer.Option(help="Folder of the run; a finished run is not trained again.")] = Path(
        "build/runs/run"
    ),
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8080,
    serve_: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve, or only train and compare.")] = True,
    loop: Annotated[
        bool, typer.Option("--loop/--no-loop", help="Simulated users ask, and their clicks retrain the model.")
    ] = True,
    rate: Annotated[float, typer.Option(help="Questions a second of the simulated users.")] = 2.0,
    state_dir: Annotated[Path, typer.Option(help="Folder of the ledger, the event log and the shards.")] = Path(
        "build/serve"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the earlier run and train again.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")] = None,
) -> None:
    """Serve the base model, train it, print the table of methods, then let traffic improve it."""
    from trainers.config import load_config

    settings = load_config(config, set_ or [])
    if serve_ and loop and settings.world.kind == "builtin":
        keep_going(settings, out, port, rate, state_dir, fresh=fresh)
        return
    version = train_and_compare(settings, out, fresh=fresh)
    if serve_:
        from cli.serve import serve
        from trainers.retraining.release import registry_of

        serve(model=str(registry_of(str(out)).fetch(version)), port=port, anonymous=True, state_dir=state_dir)


def train_and_compare(settings: RunConfig, out: Path, *, fresh: bool = False) -> str:
    """Trains what is not trained yet, registers the best epoch, prints the table; the registered version."""
    from cli.evaluate import evaluate_runs, open_session
    from cli.train import run_training
    from trainers.retraining.release import register_best

    typer.echo(
        f"base model {settings.base}; {settings.epochs} epochs of IRPO follow, then a table against the rival "
        "mechanisms. Stop with Ctrl+C; the same command goes on from there.",
        err=True,
    )
    run_training(settings, str(out), resume=True, fresh=fresh)
    entry = register_best(open_session(str(out), []))
    report = out / "report" / "report.json"
    if not report.is_file():
        # fewer answers than `evaluate` takes for the continuity curve: a newcomer waits for the page
        evaluate_runs([str(out)], str(report.parent), settings=["continuity_answers=40"])
    else:
        show(report)
    return entry.version


def keep_going(settings: RunConfig, out: Path, port: int, rate: float, state_dir: Path, *, fresh: bool) -> None:
    """The loop: the base serves at once, the trained model is promoted, and each retraining from the log after it."""
    import time

    from rich.console import Console
    from rich.live import Live

    from cli.local.loop import Loop, Places, first_version, registered, retraining_program, serving_programs
    from cli.local.table import loop_table
    from cli.promote import routed
    from cli.serve import listen
    from cli.worker import stopped
    from serving.canary.deployment import Deployment
    from serving.canary.guard import GuardSettings
    from trainers.retraining.release import registry_of

    listen("127.0.0.1", port).close()  # a port in use is told before anything is started
    models = registry_of(str(out))
    places = Places(state_dir, models.url)
    deployment = Deployment(places.routes)
    registered(settings.base, models.url)
    if not deployment.versions():
        deployment.start(first_version(settings.base), "run", "the base model")
    current = Loop(places, deployment, GuardSettings())
    address = f"http://localhost:{port}"
    try:
        for program in serving_programs(places, port, rate):
            current.children.start(program)
        typer.echo(f"serving at {address} (output of all parts in {places.output}); training meanwhile", err=True)
        try:
            version = train_and_compare(settings, out, fresh=fresh)
            if version not in {change.version for change in deployment.history()}:
                deployment.promote(routed(models, models.get(version)), "run", "the first training")
        except GuardError as error:  # the base serves, and its own traffic may do better
            typer.secho(f"the first training came to nothing, the base goes on serving: {error}", err=True)
        current.children.start(retraining_program(places))
        stop, console = stopped(), Console()
        shown = 0.0
        with Live(console=console, refresh_per_second=1, transient=False) as live:

            def update(running: Loop) -> None:
                nonlocal shown
                table = loop_table(running, models.list(), address)
                if console.is_terminal:
                    live.update(table)
                elif time.monotonic() - shown > SHOW_S:
                    shown = time.monotonic()
                    console.print(table)

            current.run(stop, update)
    finally:
        typer.echo("stopping", err=True)
        current.children.stop()


def show(report: Path) -> None:
    """Prints the table of an evaluation that was made before."""
    from rich.console import Console

    from trainers.evaluation.report_files import read_report
    from trainers.evaluation.table import print_report

    print_report(read_report(report), Console(width=max(100, Console().width)))
    typer.echo(f"report: {report.with_suffix('.html')}")
