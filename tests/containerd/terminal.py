"""Runs inside the namespace: runs a program on a new terminal and copies its output.

    python -m tests.containerd.terminal [--input TEXT [--after SHOWN]] [--size ROWSxCOLUMNS] -- ...

It enters TEXT after any output, or after the output SHOWN, and exits with the program's status.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import struct
import sys
import termios


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description="A program on a terminal.")
    parser.add_argument("--input", default="")
    parser.add_argument("--after", default="")
    parser.add_argument("--size", default="24x80")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    rows, columns = (int(part) for part in options.size.split("x"))
    pid, terminal = pty.fork()
    if not pid:
        resize(0, rows, columns)
        os.execvp(options.command[0], options.command)
    copy(terminal, options.input.encode(), options.after.encode())
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def resize(terminal: int, rows: int, columns: int) -> None:
    """Set the size of a terminal."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def copy(terminal: int, text: bytes, after: bytes) -> None:
    """Copy the program's output to standard output, until its terminal is closed."""
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while shown := os.read(terminal, 65536):
            sys.stdout.buffer.write(shown)
            sys.stdout.buffer.flush()
            seen += shown
            if text and after in seen:
                os.write(terminal, text)
                text = b""


if __name__ == "__main__":
    sys.exit(main())
