"""What the shells complete: values that the sidecar knows, and a script for bash.

click makes the scripts of zsh and fish. That of bash is ours: bash splits the words of a line at
colons, which names of images have.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from shim.entry.cli.groups import COMPLETE_VARIABLE
from shim.errors import CryoError

if TYPE_CHECKING:
    from shim.service.operation import Call

# A shell waits for it at a keystroke.
_TIMEOUT_S = 1.0
_T = TypeVar("_T")
_BASH = r"""
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" word="${COMP_WORDS[COMP_CWORD]}" kind value
    # Bash replaces the part of the word after the last colon or equals sign.
    local whole="${line##*[[:space:]]}"
    case $word in : | =) word= ;; esac
    local before="${whole%%"$word"}"
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
        dir) compopt -o dirnames ;;
        file) compopt -o default ;;
        plain) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done < <(COMP_LINE="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Completion for bash, which reads the line itself."""

    source_template = _BASH.lstrip()

    def source(self) -> str:
        """Return the script."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the complete words after the program, and the word to complete."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        unfinished = bool(words) and not line[-1:].isspace()
        return (words[1:-1], words[-1]) if unfinished else (words[1:], "")


def register() -> None:
    """Let click use our class for bash."""
    add_completion_class(Bash)


def script(root: click.Command, shell: str) -> str:
    """Return the script that a shell has to read."""
    register()
    kind: type[ShellComplete] | None = get_completion_class(shell)
    if kind is None:
        message = f"there is no completion for {shell}"
        raise click.UsageError(message)
    return kind(root, {}, "cryo", COMPLETE_VARIABLE).source()


def tasks(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the id of a task, with its state."""
    from shim.service import cryo_operations

    found = _ask(context, cryo_operations.list_) or ()
    return _items(((view.id, view.state.value) for view in found), incomplete)


def namespaces(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete a namespace that has tasks."""
    from shim.service import cryo_operations

    found = _ask(context, lambda _: cryo_operations.namespaces()) or ()
    return _items(((name, "") for name in found), incomplete)


def image_names(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete the name of an image, with its task."""
    from shim.service import image_operations

    found = _ask(context, lambda _: image_operations.images()) or ()
    own = _root(context)["namespace"]
    names = ((name, view.task) for view in found for name in view.names.get(own, ()))
    return _items(names, incomplete)


def names(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete a name of warm starts."""
    from shim.service import image_operations

    found = _ask(context, image_operations.names) or ()
    return _items(((view.name, "") for view in found), incomplete)


def paths(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Let the shell complete a path."""
    return [CompletionItem(incomplete, type="file")]


def signals(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a signal."""
    return _items(((one.name, "") for one in signal.Signals), incomplete.upper())


def images(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete the name or the path of an image."""
    by_path = paths(context, param, incomplete)
    if incomplete.startswith((".", "/")):
        return by_path
    return [*image_names(context, param, incomplete), *by_path]


def tasks_or_images(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete the id of a task, or the name or the path of an image."""
    return [*tasks(context, param, incomplete), *images(context, param, incomplete)]


def _items(pairs: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem[str]]:
    return [
        CompletionItem(value, help=text or None)
        for value, text in pairs
        if value.startswith(incomplete) and value.isprintable()
    ]


def _root(context: click.Context) -> dict[str, Any]:
    """Return the values of the global options: a completion runs no command."""
    return context.find_root().params


def _ask(context: click.Context, make: Callable[[str], Call[_T]]) -> _T | None:
    """Ask the sidecar, without gRPC; None if it does not answer, for which a shell has no place."""
    from shim.client import light

    options = _root(context)
    try:
        call = make(options["namespace"])
        with light.connected(options["address"], _TIMEOUT_S) as connection:
            return None if connection is None else call.read(connection.exchange(call))
    except CryoError:
        return None
