"""The console script `llm-auction`: its commands by name, `--version`, and what a failure looks like.

A command's module (`cli/train.py` for `train`) is imported when that command is called and not before, so `--help`
answers at once and without torch. What a command does is the module's own business.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mechanism.errors import AuctionError, BusyError, DeviceMemoryError, GuardError, InputError, PolicyError

EXIT_FAILED = 1
"""Exit status for what may go well when it is tried again."""
EXIT_BAD_INPUT = 2
"""Exit status when an input or setting ends a command, as for a wrong option: trying again is no use."""
EXIT_GUARD = 3
"""Exit status when a guard stopped a training run."""
EXIT_OUT_OF_MEMORY = 4
"""Exit status when a model and its batch did not fit the device's memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command before its module is loaded: the line in `--help`, and the extra that it needs (empty: none)."""

    help: str
    extra: str


ENTRIES = {
    "run": Entry(
        "Train the quick configuration, print the table of methods, then serve the result.", "train,serve-local"
    ),
    "train": Entry("Train a policy: IRPO over a run directory that can be resumed.", "train"),
    "evaluate": Entry("Compare runs or models with the rival mechanisms; table, report.json, report.html.", "train"),
    "serve": Entry("Answer chat completions with labelled sponsored links.", "serve-local"),
    "triton": Entry("Prepare a Triton server, build model repositories, serve them.", "triton"),
    "users": Entry("Simulated users: ask a router, read its answers, follow links.", "policy,judge"),
    "worker": Entry("Run a worker on the event log: judge, feedback, ledger.", "stream"),
    "dlq": Entry("List dead letters, and bring them back.", "stream"),
    "erase": Entry("Erase what a user asked and read from the shards, and say when the log has dropped it.", "stream"),
    "promote": Entry("Give a registered model the traffic, or a share of it.", "serve"),
    "rollback": Entry("Send the traffic back to the version before; --history lists all changes.", "serve"),
    "guard": Entry("Watch the promoted version in the log; keep it or roll it back.", "stream"),
    "retrain": Entry(
        "Train the serving model anew from its log when that is due, and put the result before the gates.", "train"
    ),
    "models": Entry("List, show, verify and register models.", ""),
    "data": Entry("Read catalogues and queries, and report every bad row.", ""),
    "pretrain": Entry("Make the shipped tiny base model again, from its recipe.", "train"),
    "due": Entry("Say whether a retraining is due, from the log's shards, as JSON.", "train"),
    "operator": Entry("Run the Kubernetes operator: training jobs as resources.", "operate"),
}


class Deferred(TyperCommand):
    """A command that knows its help line; parsing its arguments loads the real one."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        assert self.name is not None
        return load(self.name).make_context(info_name, args, parent=parent, **extra)


class LazyGroup(TyperGroup):
    """The commands whose modules are there; ends a command that failed on purpose with one line, not a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Command names in the order of ENTRIES."""
        return [name for name in ENTRIES if importlib.util.find_spec(f"cli.{name}") is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The stand-in for a command, or None (typer then suggests the nearest name)."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return Deferred(name=cmd_name, help=ENTRIES[cmd_name].help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does it; the commands are named first so that a wrong name gets a suggestion."""
        self.commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. With LLM_AUCTION_DEBUG=1 errors keep their traceback."""
        try:
            return super().invoke(ctx)
        except AuctionError as error:
            if debugging():
                raise
            complain(str(error))
            raise typer.Exit(exit_status(error)) from error
        except PermissionError as error:
            if debugging():
                raise
            told = f"{error.filename}: permission denied" if error.filename else str(error)
            complain(f"{told}: let this user or these credentials have it, or take others")
            raise typer.Exit(EXIT_BAD_INPUT) from error
        except (MemoryError, RuntimeError) as error:
            # torch's own kind of error by its name: torch is not imported for its sake
            if debugging() or not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):
                raise
            complain(f"out of memory: {str(error).partition(chr(10))[0]}")
            raise typer.Exit(EXIT_OUT_OF_MEMORY) from error
        except ModuleNotFoundError as error:
            extra = ENTRIES[ctx.invoked_subcommand].extra if ctx.invoked_subcommand in ENTRIES else ""
            if debugging() or not extra or is_ours(error.name):
                raise
            complain(f"`{ctx.invoked_subcommand}` needs the package {error.name}: pip install 'llm-auction[{extra}]'")
            raise typer.Exit(EXIT_BAD_INPUT) from error
        except Exception as error:
            # an object store's client by its name: it is imported only where there is one
            if debugging() or not type(error).__module__.startswith("botocore."):
                raise
            complain(f"the object store: {error}: see its address (AWS_ENDPOINT_URL) and the credentials (AWS_...)")
            raise typer.Exit(EXIT_FAILED) from error


def exit_status(error: AuctionError) -> int:
    """What kind of end an error is, for whoever started the command and may start it again."""
    match error:
        case BusyError():
            return EXIT_FAILED
        case InputError() | PolicyError():
            return EXIT_BAD_INPUT
        case GuardError():
            return EXIT_GUARD
        case DeviceMemoryError():
            return EXIT_OUT_OF_MEMORY
        case _:
            return EXIT_FAILED


def load(name: str) -> Any:
    """The real command: the module's typer group `app` if it has one, else its function of the command's name."""
    module = importlib.import_module(f"cli.{name}")
    group = getattr(module, "app", None)
    if group is None:
        group = typer.Typer(add_completion=False)
        group.command(name)(getattr(module, name))
    return typer.main.get_command(group)


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get("LLM_AUCTION_DEBUG", "") not in ("", "0")


def is_ours(module: str | None) -> bool:
    """Whether a missing module is one of this project's rooms: then it is a defect and keeps its traceback."""
    rooms = ("mechanism", "inference", "simulator", "streaming", "trainers", "serving", "operators", "cli")
    return module is None or module.split(".")[0] in rooms


def complain(message: str) -> None:
    """One red line on stderr (uncoloured where stderr is not a terminal)."""
    typer.secho("error: " + " ".join(message.split()), fg=typer.colors.RED, err=True)


def show_version(wanted: bool) -> None:
    """Print the installed version and stop."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"llm-auction {version('llm-auction')}")
        raise typer.Exit()


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A generative ad auction: the language model that writes the answer allocates the ads in it.",
)


@app.callback()
def start(
    log_level: Annotated[
        str, typer.Option(help="debug, info, warning or error.", envvar="LLM_AUCTION_LOG_LEVEL")
    ] = "info",
    log_format: Annotated[
        str, typer.Option(help="console, json, or auto: console on a terminal.", envvar="LLM_AUCTION_LOG_FORMAT")
    ] = "auto",
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Set up logging before any command runs."""
    from cli import logs

    logs.configure(log_level, log_format)


if __name__ == "__main__":
    app()
