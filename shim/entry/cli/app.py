"""The root command: options for every command, and errors as one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click
from click.core import ParameterSource

from shim import __version__
from shim.entry.cli import exits
from shim.entry.cli.groups import COMPLETE_VARIABLE, Group, Root
from shim.entry.cli.settings import Settings
from shim.errors import CryoError
from shim.host.text import printable
from shim.model import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _namespaces(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    from shim.entry.cli import completing

    return completing.namespaces(context, param, incomplete)


@click.group(
    "cryo",
    cls=Root,
    modules=("run", "host", "timeline", "doctor", "events", "completion"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "-a",
    "--address",
    envvar="CRYO_ADDRESS",
    default=DEFAULT_ADDRESS,
    show_default=True,
    help="address of the sidecar [$CRYO_ADDRESS]",
)
@click.option(
    "-n",
    "--namespace",
    envvar="CRYO_NAMESPACE",
    default="default",
    show_default=True,
    shell_complete=_namespaces,
    help="containerd namespace [$CRYO_NAMESPACE]",
)
@click.option(
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="output format",
)
@click.version_option(__version__, "-v", "--version", prog_name="cryo")
@click.pass_context
def cryo(context: click.Context, address: str, namespace: str, output: str) -> None:
    """Checkpoint and restore GPU containers under gVisor."""
    default = context.get_parameter_source("address") is ParameterSource.DEFAULT
    context.obj = Settings(address, namespace, output == "json", address_given=not default)


@cryo.group("tasks", cls=Group, modules=("task_list", "ps", "tasks", "processes", "checkpoint"))
def tasks_group() -> None:
    """Manage tasks (running containers)."""


@cryo.group("checkpoints", cls=Group, modules=("images", "diff", "signatures", "store", "transfer"))
def checkpoints_group() -> None:
    """Manage images (checkpoints on disk)."""


@cryo.group("warm", cls=Group, modules=("warm",))
def warm_group() -> None:
    """Manage the named images of warm starts."""


@cryo.group("install", cls=Group, modules=("install",))
def install_group() -> None:
    """Make this runtime known to containerd or Docker."""


@cryo.group("uninstall", cls=Group, modules=("uninstall",))
def uninstall_group() -> None:
    """Undo `cryo install`."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run `cryo` and exit; an error is one line on stderr and an exit code from `exits`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters that the locale cannot encode are escaped, as on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    if COMPLETE_VARIABLE in os.environ:
        from shim.entry.cli import completing

        completing.register()
    try:
        status = cryo.main(argv, prog_name="cryo", standalone_mode=False)
    except CryoError as error:
        _complain(error.message, error.remedy)
        status = exits.code_of(error)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = exits.USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        said = error.format_message().rstrip(".")
        _complain(said, f"see {context.command_path} -h" if context else "")
        status = error.exit_code
    except click.Abort:
        _complain("interrupted")
        status = exits.INTERRUPTED
    sys.exit(status or 0)


def _complain(message: str, remedy: str = "") -> None:
    text = "; ".join(" ".join(part.split()) for part in (message, remedy) if part)
    print(f"cryo: {printable(text)}", file=sys.stderr)
