"""The caller's terminal: its raw mode while a process is attached, and its size."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator

import click


def check(*, wanted: bool) -> None:
    """Check that stdin is a terminal, if one is wanted.

    Raises:
        click.UsageError: it is not.
    """
    if wanted and not sys.stdin.isatty():
        message = "-t needs a terminal on stdin"
        raise click.UsageError(message)


@contextlib.contextmanager
def raw(*, wanted: bool) -> Iterator[None]:
    """Switch the terminal to raw mode, and restore its mode at the end."""
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
