"""What is seen in a network namespace, by a thread that joins it and then exits."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shim.errors import DeadlineExceeded, FailedPrecondition
from shim.host.oserror import typed

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_WAIT_S = 5.0
_LIMIT_BYTES = 4 << 20
# A leaf of the routing trie, and the line below it that marks a local address.
_LOCAL = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")
_LOOPBACK = "127."
_SCOPE = 3
_libc = ctypes.CDLL(None, use_errno=True)


def addresses(path: Path) -> tuple[str, ...]:
    """List the addresses of the namespace at `path`, except loopback and link-local ones.

    Raises:
        FailedPrecondition: the namespace does not exist.
        DeadlineExceeded: the read did not complete in time.
        CryoError: the namespace cannot be joined.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        message = f"the network namespace {path} does not exist"
        raise FailedPrecondition(message, remedy="create it, or name another one") from error
    except OSError as error:
        raise typed(error, f"open {path}") from error
    try:
        return _inside(fd, path)
    finally:
        os.close(fd)


def new_one_has(path: Path) -> bool:
    """Whether a file is there in a new namespace, which ends at once.

    Raises:
        DeadlineExceeded: it could not be looked at in time.
        CryoError: no namespace can be made.
    """

    def look() -> bool:
        _checked(_libc.unshare(_CLONE_NEWNET))
        return os.access(path, os.F_OK)

    return _in_thread(look, "a new network namespace", "make")


def _inside(fd: int, path: Path) -> tuple[str, ...]:
    def read() -> tuple[str, ...]:
        _checked(_libc.setns(fd, _CLONE_NEWNET))
        return parse(_read("fib_trie"), _read("if_inet6"))

    return _in_thread(read, f"the network namespace {path}", "join")


def _in_thread(work: Callable[[], _T], what: str, verb: str) -> _T:
    """Run work in a new thread, because it permanently changes the namespace of its thread."""
    found: list[_T] = []
    failed: list[OSError] = []

    def run() -> None:
        try:
            found.append(work())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="netns", daemon=True)
    thread.start()
    thread.join(_WAIT_S)
    if failed:
        raise typed(failed[0], f"{verb} {what}") from failed[0]
    if not found:
        message = f"{what} could not be read within {_WAIT_S:g} s"
        remedy = "check that the filesystem it is on responds, or name another one"
        raise DeadlineExceeded(message, remedy=remedy)
    return found[0]


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def parse(trie: str, inet6: str) -> tuple[str, ...]:
    """List the addresses in the texts of /proc/net/fib_trie and /proc/net/if_inet6.

    A row of if_inet6: address, index, prefix, scope (00 is global), flags, name.
    """
    version4 = (one for one in _LOCAL.findall(trie) if not one.startswith(_LOOPBACK))
    rows = (line.split() for line in inet6.splitlines())
    version6 = (row[0] for row in rows if len(row) > _SCOPE and row[_SCOPE] == "00")
    return tuple(dict.fromkeys((*version4, *version6)))


def _read(name: str) -> str:
    """Read a file of the thread's namespace; empty if it does not exist, as without IPv6."""
    try:
        with Path("/proc/thread-self/net", name).open("rb") as file:
            return file.read(_LIMIT_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        return ""
