"""The caller's terminal: raw while a process has it, and its size forwarded."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator

import click


def check(*, wanted: bool) -> None:
    """Refuse a terminal that is not there.

    Raises:
        click.UsageError: stdin is none.
    """
    if wanted and not sys.stdin.isatty():
        message = "-t needs a terminal on stdin"
        raise click.UsageError(message)


@contextlib.contextmanager
def raw(*, wanted: bool) -> Iterator[None]:
    """Pass each key to the process as it is, and put the terminal back at the end."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def size() -> tuple[int, int]:
    """Return columns and lines."""
    found = os.get_terminal_size(0)
    return found.columns, found.lines
