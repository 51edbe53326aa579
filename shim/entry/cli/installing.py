"""The options and the steps that the commands of install and uninstall share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from shim.entry.cli.settings import Settings
from shim.host.text import printable_lines

if TYPE_CHECKING:
    from shim.install.links import Link
    from shim.install.plan import Plan

_Command = Callable[..., Any]


@dataclass(frozen=True)
class Where:
    """The directory of the link to the shim, and the shim."""

    bin_dir: Path
    shim: Path | None

    @property
    def link(self) -> Link:
        """The link."""
        from shim.install import links

        target = (self.shim or links.program()).absolute()
        return links.Link(self.bin_dir.absolute() / links.SHIM, target)


def config_option(default: str) -> Callable[[_Command], _Command]:
    """Return the option for the file that is changed."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=default,
        show_default=True,
        callback=lambda _context, _param, value: value.absolute(),
        help="file to change",
    )


def where_options(command: _Command) -> _Command:
    """Add the options of the link, as the argument `where`."""

    @click.option(
        "--bin-dir",
        type=click.Path(path_type=Path),
        default="/usr/local/bin",
        show_default=True,
        help="directory of the link to the shim",
    )
    @click.option(
        "--shim",
        type=click.Path(path_type=Path),
        help="the shim [default: that of this installation]",
    )
    @functools.wraps(command)
    def with_where(*args: Any, bin_dir: Path, shim: Path | None, **others: Any) -> Any:
        return command(*args, where=Where(bin_dir, shim), **others)

    return with_where


def asking(command: _Command) -> _Command:
    """Add the options that say whether anything is done."""
    dry_run = click.option("--dry-run", is_flag=True, help="print the changes; change nothing")
    yes = click.option("--yes", "-y", is_flag=True, help="do not ask")
    return dry_run(yes(command))


def carry_out(out: Settings, plan: Plan, *, yes: bool, dry_run: bool) -> None:
    """Print a plan, ask, do it, and print what was done and what remains to be done.

    Raises:
        CryoError: it cannot be done.
    """
    plan.check()
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)
    if not plan:
        out.show(_report(plan, []), "nothing to do")
        return
    if dry_run or not yes:
        _show_changes(plan, sys.stderr if out.as_json else sys.stdout)
    if dry_run:
        out.show(_report(plan, []), "")
        return
    if not yes:
        _ask()
    done = list(plan.apply())
    after = [f"to put it into effect: {plan.restart}"] if plan.restart else []
    out.show(_report(plan, done), "\n".join([*done, *after]))


def _report(plan: Plan, done: list[str]) -> dict[str, object]:
    return {"done": done, "diff": plan.diff, "restart": plan.restart}


def _ask() -> None:
    if not sys.stdin.isatty():
        message = "there is no terminal to ask at: give --yes"
        raise click.UsageError(message)
    click.confirm("Do this?", abort=True, err=True)


def _show_changes(plan: Plan, to: TextIO) -> None:
    print(printable_lines(plan.diff), end="", file=to)
    for link, verb in ((plan.make, "make"), (plan.remove, "remove")):
        if link:
            print(f"{verb} the link {link.path} to {link.target}", file=sys.stderr)
