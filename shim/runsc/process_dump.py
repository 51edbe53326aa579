"""What the processes of a sandbox are and use, by the sentry's own list of them.

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


class _User(Value):
    real: int = 0


class _Status(Value):
    pid: int
    uid: _User = _User()
    # In kB, as in /proc/PID/status.
    vm_rss: int = 0


class _Descriptor(Value):
    path: str = ""


class _Mapping(Value):
    pathname: str = ""


class _Process(Value):
    status: _Status
    exe: str = ""
    cwd: str = ""
    args: tuple[str, ...] | None = None
    fdlist: tuple[_Descriptor, ...] | None = None
    maps: tuple[_Mapping, ...] | None = None

    def paths(self) -> Iterator[str]:
        """Return what it uses: program, working directory, open and mapped files."""
        yield from (self.exe, self.cwd)
        yield from (one.path for one in self.fdlist or ())
        yield from (one.pathname for one in self.maps or ())


class DumpedProcess(Value):
    """What the sentry says of a process. `paths` are the absolute paths that it uses."""

    args: tuple[str, ...]
    uid: int
    memory_bytes: int
    paths: frozenset[str]


async def processes(socket: Path) -> dict[int, DumpedProcess]:
    """Return all processes of the sandbox, by pid in the root pid namespace.

    Raises:
        Unavailable: the sentry does not answer, or its answer has another form.
    """
    method = "containerManager.ProcfsDump"
    found = await urpc.call(socket, method, None, timeout_s=_TIMEOUT_S, limit_bytes=_LIMIT_BYTES)
    return parse(found)


def parse(found: object) -> dict[int, DumpedProcess]:
    """Parse the sentry's answer.

    Raises:
        Unavailable: it has another form.
    """
    try:
        listed = msgspec.convert(found, tuple[_Process, ...])
    except msgspec.ValidationError as error:
        message = f"the sentry lists processes in another form: {error}"
        raise Unavailable(message) from error
    return {
        one.status.pid: DumpedProcess(
            args=one.args or (),
            uid=one.status.uid.real,
            memory_bytes=one.status.vm_rss << 10,
            paths=frozenset(path for path in one.paths() if path.startswith("/")),
        )
        for one in listed
    }
