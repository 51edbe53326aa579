"""The command completion: the script with which a shell completes `cryo`."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for the completion of a shell.

    It completes commands, options, ids of tasks, names of images and namespaces.

    For bash, put `source <(cryo completion bash)` into ~/.bashrc, or the script into
    /usr/share/bash-completion/completions/cryo. For zsh, put the script as _cryo into a directory
    of fpath. For fish, put it into ~/.config/fish/completions/cryo.fish.

    Values are asked for at the sidecar that -a and -n name; if it does not answer within a second,
    there are none.
    """
    from shim.entry.cli import completing

    print(completing.script(context.find_root().command, shell), end="")


COMMANDS = (completion,)
