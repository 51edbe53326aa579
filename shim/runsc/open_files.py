"""Which files the processes of a sandbox use, by the sentry's own list of them.

The sentry's method (runsc/boot/procfs/dump.go) returns for each process what /proc has of it; no
program of the image is needed. A path is as the process sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from shim.errors import Unavailable
from shim.model import Value
from shim.runsc import urpc

# It contains the environment and the mappings of every process.
_LIMIT_BYTES = 64 << 20
_TIMEOUT_S = 10.0


class _Status(Value):
    pid: int


class _Descriptor(Value):
    path: str = ""


class _Mapping(Value):
    pathname: str = ""


class _Process(Value):
    status: _Status
    exe: str = ""
    cwd: str = ""
    fdlist: tuple[_Descriptor, ...] | None = None
    maps: tuple[_Mapping, ...] | None = None

    def paths(self) -> Iterator[str]:
        """Return what it uses: program, working directory, open and mapped files."""
        yield from (self.exe, self.cwd)
        yield from (one.path for one in self.fdlist or ())
        yield from (one.pathname for one in self.maps or ())


async def open_files(socket: Path) -> dict[int, frozenset[str]]:
    """Return the absolute paths that each process uses, by its pid in the root pid namespace.

    Raises:
        Unavailable: the sentry does not answer, or its answer has another form.
    """
    method = "containerManager.ProcfsDump"
    found = await urpc.call(socket, method, None, timeout_s=_TIMEOUT_S, limit_bytes=_LIMIT_BYTES)
    return parse(found)


def parse(found: object) -> dict[int, frozenset[str]]:
    """Parse the sentry's answer.

    Raises:
        Unavailable: it has another form.
    """
    try:
        processes = msgspec.convert(found, tuple[_Process, ...])
    except msgspec.ValidationError as error:
        message = f"the sentry lists open files in another form: {error}"
        raise Unavailable(message) from error
    return {
        one.status.pid: frozenset(path for path in one.paths() if path.startswith("/"))
        for one in processes
    }
