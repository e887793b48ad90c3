"""The console script `llm-auction`: its commands by name, `--version`, and how failures are reported.

A command's module is imported when the command is called, so that `--help` answers at once and without torch.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cli import ROOMS
from cli.exits import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OUT_OF_MEMORY, exit_status, print_error
from mechanism.errors import AuctionError


@dataclass(frozen=True, slots=True)
class Entry:
    """A command before its module is loaded: its line in `--help`, the extra that it needs, and its module in `cli`.

    An empty `extra` means that the core dependencies suffice; an empty `module` is the command's own name.
    """

    help: str
    extra: str
    module: str = ""


ENTRIES = {
    "run": Entry(
        "Serve a model, train it, print the table of methods, then retrain it from its traffic.",
        "train,serve-local",
    ),
    "train": Entry("Train a policy: IRPO over a run directory that can be resumed.", "train"),
    "plan": Entry("Print the memory that a training needs of each GPU.", "train"),
    "evaluate": Entry("Compare runs or models with the baseline mechanisms; table, report.json, report.html.", "train"),
    "serve": Entry("Answer chat completions with labelled sponsored links.", "serve-local"),
    "sign-in": Entry("Print an address that opens the console signed in, once.", "serve", "sign_in"),
    "rotate-secret": Entry("Replace the secret that links and keys are signed under.", "serve", "rotate_secret"),
    "migrate": Entry("Upgrade a database to the schema of this version.", "serve"),
    "triton": Entry("Prepare a Triton server, build model repositories, serve them.", "triton"),
    "users": Entry("Simulate users: ask a router, read its answers, follow links.", "policy,judge"),
    "worker": Entry("Run a worker on the event log: judge, lake, ledger.", "stream"),
    "placements": Entry("List a publisher's placements, register them, set their floors.", "serve"),
    "accounts": Entry("Set advertisers' credit limits, enter their payments, print balances and statements.", "serve"),
    "campaigns": Entry("Upload a file of campaigns, print a campaign's history.", "serve"),
    "clicks": Entry("Mark charged clicks invalid and refund them.", "serve"),
    "dlq": Entry("List dead letters and replay them.", "stream"),
    "erase": Entry(
        "Erase readers' questions and answers from the lake, and print when the log has dropped them.", "stream"
    ),
    "lake": Entry("Maintain the lake's tables, take over earlier shards, list erasures.", "stream"),
    "training-set": Entry("Write the training set of a lake to a Parquet or JSONL file.", "stream", "training_set"),
    "promote": Entry("Route traffic, or a share of it, to a registered model.", "serve"),
    "rollback": Entry(
        "Route the traffic back to the previous version; --history lists all changes.", "serve", "promote"
    ),
    "guard": Entry("Monitor the promoted version in the lake; keep it or roll it back.", "stream"),
    "retrain": Entry("Retrain the serving model from its own log when that is due, and apply the gates.", "train"),
    "models": Entry("List, show, verify and register models.", ""),
    "data": Entry("Read catalogues and queries, and report every invalid row.", ""),
    "pretrain": Entry("Train a model from its recipe: tiny, or assistant, an adapter on SmolLM2.", "train"),
    "due": Entry("Report as JSON whether a retraining is due.", "train", "retrain"),
    "operator": Entry("Run the Kubernetes operator.", "operate"),
}


class Deferred(TyperCommand):
    """A command known by its help line only; parsing its arguments loads the real one."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        assert self.name is not None
        return load(self.name).make_context(info_name, args, parent=parent, **extra)


class LazyGroup(TyperGroup):
    """The commands of ENTRIES; an expected failure ends with one line on stderr in place of a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the command names in the order of ENTRIES."""
        return list(ENTRIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in for the command, or None for an unknown name; typer then suggests similar names."""
        if cmd_name not in ENTRIES:
            return None
        return Deferred(name=cmd_name, help=ENTRIES[cmd_name].help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Fill `commands` before typer resolves the name: it suggests names from there for an unknown one."""
        self.commands = {name: self.get_command(ctx, name) for name in ENTRIES}
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command and turn expected errors into exit statuses; with LLM_AUCTION_DEBUG=1 they propagate.

        Raises:
            typer.Exit: with the exit status of a command that failed.
        """
        try:
            return super().invoke(ctx)
        except Exception as error:
            failure = describe_failure(error, ctx.invoked_subcommand)
            if failure is None or debugging():
                raise
            message, status = failure
            print_error(message)
            raise typer.Exit(status) from error


def describe_failure(error: Exception, command: str | None) -> tuple[str, int] | None:
    """Return the message and exit status of an expected failure; None for a defect, which keeps its traceback.

    Third parties' errors are recognised by name, so that neither torch nor an object store's client is imported here.
    """
    if isinstance(error, AuctionError):
        return str(error), exit_status(error)
    if isinstance(error, PermissionError):
        message = f"{error.filename}: permission denied" if error.filename else str(error)
        return f"{message}: grant this user or these credentials access, or use others", EXIT_BAD_INPUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: {str(error).partition(chr(10))[0]}", EXIT_OUT_OF_MEMORY
    if isinstance(error, ModuleNotFoundError):
        extra = ENTRIES[command].extra if command in ENTRIES else ""
        if not extra or is_own_module(error.name):
            return None
        return f"`{command}` needs the package {error.name}: pip install 'llm-auction[{extra}]'", EXIT_BAD_INPUT
    if type(error).__module__.startswith("botocore."):
        remedy = "check its address (AWS_ENDPOINT_URL) and the credentials (AWS_...)"
        return f"the object store: {error}: {remedy}", EXIT_FAILED
    return None


def load(name: str) -> Any:
    """Return the real command: its module's typer group `app` if there is one, else the function of its name."""
    module = importlib.import_module(f"cli.{ENTRIES[name].module or name}")
    group = getattr(module, "app", None)
    if group is None:
        group = typer.Typer(add_completion=False)
        group.command(name)(getattr(module, name.replace("-", "_")))
    command = typer.main.get_command(group)
    for each in (command, *getattr(command, "commands", {}).values()):
        # typer takes the docstring as help; its `Raises:` section is for callers
        each.help = (each.help or "").partition("\n\nRaises:")[0]
    return command


def debugging() -> bool:
    """Return whether errors keep their traceback."""
    return os.environ.get("LLM_AUCTION_DEBUG", "") not in ("", "0")


def is_own_module(module: str | None) -> bool:
    """Return whether a missing module belongs to this project: then it is a defect and not a missing extra."""
    return module is None or module.split(".")[0] in ROOMS


def print_version(requested: bool) -> None:
    """Print the installed version and exit.

    Raises:
        typer.Exit: after the version is printed.
    """
    if requested:
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
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Configure logging before any command runs."""
    from cli import logs

    logs.configure(log_level, log_format)


if __name__ == "__main__":
    app()
