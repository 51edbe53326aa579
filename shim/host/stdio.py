"""A task's standard streams, opened so that they can be passed to runsc directly.

Data is not copied: the sandbox writes to the client's fifo itself. Requirements on the fifos:

- A client may detach and reattach: an output fifo is opened for reading too, so that a write
  without a reader blocks until the next one and does not fail with EPIPE.
- A reader gets EOF when the task has exited, that is, when the last writer has closed; so this
  process closes its copies as soon as the program has been started (`Streams.close`).
- stdin ends at CloseIO, not when a client detaches: the supervisor holds a write end
  (`Streams.stdin_writer`) until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from shim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from shim.host import procs, trusted
from shim.host.files import make_folders
from shim.host.oserror import typed
from shim.host.process_id import ProcessId
from shim.host.supervisor.protocol import ProcessSupervisor
from shim.model import Stdio, TaskRef

_READY_S = 10.0
# Only a client on a very busy machine needs longer; without a reader the start is delayed by this.
_READER_S = 1.0
_READER_POLL_S = 0.005
_LOGGER_TERM_S = 12.0
_SIGTERM, _SIGKILL = 15, 9
_PLAIN = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_BINARY = frozenset({"binary", "binary-v2"})


class Place(NamedTuple):
    """A parsed stream: `scheme` is empty, `fifo`, `file`, `binary` or `binary-v2`."""

    scheme: str
    path: Path
    query: Mapping[str, str]


def parse(text: str) -> Place | None:
    """Parse a path or URI; None if empty.

    Raises:
        InvalidArgument: an unknown scheme, a relative path, or a NUL.
    """
    if not text:
        return None
    parts = urlsplit(text) if "://" in text else None
    scheme, path = (parts.scheme, unquote(parts.path)) if parts else ("", text)
    if scheme not in {"", "fifo", "file"} | _BINARY:
        message = f"stream {text!r}: unknown scheme {scheme!r}"
        raise InvalidArgument(message, remedy="use a path, fifo://, file:// or binary://")
    if not path.startswith("/") or "\0" in path or (parts and parts.netloc):
        message = f"stream {text!r} is not an absolute path"
        raise InvalidArgument(message, remedy="use an absolute path, as in /x or file:///x")
    query = dict(parse_qsl(parts.query, keep_blank_values=True)) if parts else {}
    return Place(scheme, Path(path), query)


class Streams:
    """Open descriptors of a process, -1 once closed. `stdin_writer` is set only for a fifo."""

    def __init__(self) -> None:
        """Start with nothing open."""
        self.stdin = self.stdout = self.stderr = -1
        self.stdin_writer: int | None = None
        self.logger: ProcessId | None = None

    def close(self) -> None:
        """Close this process's copies: right after the program started, and on failure."""
        for fd in {self.stdin, self.stdout, self.stderr, self.stdin_writer} - {-1, None}:
            os.close(fd)  # type: ignore[arg-type] # None has been taken out
        self.stdin = self.stdout = self.stderr = -1
        self.stdin_writer = None


async def open_streams(stdio: Stdio, ref: TaskRef, supervisor: ProcessSupervisor) -> Streams:
    """Open a process's standard streams; the caller must always `close()` the result.

    With a terminal these are the ends that the console copies from and to, and stderr is null.

    Raises:
        InvalidArgument: a stream is not valid.
        NotFound: its folder, or a logger program, does not exist.
        DeadlineExceeded: a logger did not report that it is ready.
    """
    streams = Streams()
    stdin, stdout, stderr = _parsed(stdio)
    try:
        _open_stdin(streams, stdin)
        if stdout and stdout.scheme in _BINARY:
            await _open_logger(streams, stdout, ref, supervisor)
        else:
            streams.stdout = await _output(stdout)
            streams.stderr = await _output(stderr)
    except BaseException:
        streams.close()
        raise
    return streams


def _parsed(stdio: Stdio) -> tuple[Place | None, Place | None, Place | None]:
    stdin, stdout, stderr = parse(stdio.stdin), parse(stdio.stdout), parse(stdio.stderr)
    if stdin and stdin.scheme in _BINARY | {"file"}:
        message = f"stdin cannot be {stdin.scheme}://"
        raise InvalidArgument(message, remedy="use a path or fifo://")
    if stdio.terminal:
        return stdin, stdout, None  # a terminal has one output
    if stdout and stdout.scheme == "file" and stderr is None:
        return stdin, stdout, stdout  # as containerd's own log files: both streams in one
    if stderr and stderr.scheme in _BINARY and stderr != stdout:
        message = "a logger takes both streams: name it as stdout"
        raise InvalidArgument(message)
    return stdin, stdout, stderr


def _open(path: Path, flags: int) -> int:
    """Open without blocking; return a descriptor whose reads and writes block."""
    try:
        fd = os.open(path, flags | _PLAIN, 0o600)
    except OSError as error:
        raise typed(error, f"open {path}") from error
    os.set_blocking(fd, True)
    return fd


def _is_fifo(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise typed(error, f"open {path}") from error


def _open_stdin(streams: Streams, place: Place | None) -> None:
    path = place.path if place else Path("/dev/null")
    streams.stdin = _open(path, os.O_RDONLY)
    if stat.S_ISFIFO(os.fstat(streams.stdin).st_mode):
        streams.stdin_writer = _open(path, os.O_WRONLY)


async def _output(place: Place | None) -> int:
    """Open an output; for a fifo, wait briefly for a reader first."""
    if place is None:
        return _open(Path("/dev/null"), os.O_WRONLY)
    if not _is_fifo(place.path):
        return _open_file(place)
    # Held until the real one is open: a reader must not see EOF in between.
    held = await _until_read(place.path)
    try:
        return _open(place.path, os.O_RDWR)
    finally:
        if held is not None:
            os.close(held)


async def _until_read(path: Path) -> int | None:
    """Wait briefly for a reader: clients open a fifo concurrently with their call.

    If a program exits before its fifo has a reader, its output is lost with the last writer, and
    a later reader waits forever.
    """
    until = time.monotonic() + _READER_S
    while time.monotonic() < until:
        try:
            return os.open(path, os.O_WRONLY | _PLAIN)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return None  # the real open will raise it
        await asyncio.sleep(_READER_POLL_S)
    return None


def _open_file(place: Place) -> int:
    if place.scheme == "fifo":
        message = f"{place.path} is not a fifo"
        raise InvalidArgument(message, remedy="create it with mkfifo before the task")
    if place.scheme == "file":
        make_folders(place.path.parent)
        trusted.check(place.path.parent)
    if place.path.is_symlink():
        message = f"{place.path} is a symbolic link"
        raise InvalidArgument(message, remedy="name the file that it points to")
    return _open(place.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)


# Loggers


class _Pipes:
    """The three pipes of a logger; `close` closes those still open."""

    def __init__(self) -> None:
        self.out_read, self.out_write = os.pipe2(os.O_CLOEXEC)
        self.err_read, self.err_write = os.pipe2(os.O_CLOEXEC)
        self.ready_read, self.ready_write = os.pipe2(os.O_CLOEXEC)

    def give(self, streams: Streams) -> None:
        streams.stdout, self.out_write = self.out_write, -1
        streams.stderr, self.err_write = self.err_write, -1

    def close_logger_ends(self) -> None:
        self._close("out_read", "err_read", "ready_write")

    def close(self) -> None:
        self.close_logger_ends()
        self._close("out_write", "err_write", "ready_read")

    def _close(self, *names: str) -> None:
        for name in names:
            if (fd := getattr(self, name)) >= 0:
                os.close(fd)
                setattr(self, name, -1)


async def _open_logger(
    streams: Streams, place: Place, ref: TaskRef, supervisor: ProcessSupervisor
) -> None:
    pipes = _Pipes()
    try:
        streams.logger = await _start_logger(place, ref, supervisor, pipes)
        pipes.close_logger_ends()  # otherwise EOF would never be seen
        await _logger_ready(place, pipes.ready_read)
        pipes.give(streams)
    except BaseException:
        if streams.logger:
            procs.kill(*streams.logger, _SIGKILL)
        raise
    finally:
        pipes.close()


async def _start_logger(
    place: Place, ref: TaskRef, supervisor: ProcessSupervisor, pipes: _Pipes
) -> ProcessId:
    words = [word for pair in place.query.items() for word in pair if word]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        return await supervisor.spawn(
            [str(place.path), *words],
            stdin=null,
            stdout=null,
            stderr=null,
            env={"CONTAINER_ID": ref.id, "CONTAINER_NAMESPACE": ref.namespace},
            pass_fds=[pipes.out_read, pipes.err_read, pipes.ready_write],
        )
    finally:
        os.close(null)


async def _logger_ready(place: Place, fd: int) -> None:
    """Wait for a byte, or (first version of the protocol) for EOF."""
    os.set_blocking(fd, False)
    try:
        async with asyncio.timeout(_READY_S):
            await procs.readable(fd)
    except TimeoutError as error:
        message = f"logger {place.path} was not ready within {_READY_S:.0f} s"
        raise DeadlineExceeded(
            message, remedy="it must close descriptor 5, or write to it"
        ) from error
    if not os.read(fd, 1) and place.scheme == "binary-v2":
        message = f"logger {place.path} exited before it was ready"
        raise FailedPrecondition(message, remedy="read its own log")


async def end_logger(logger: ProcessId, timeout_s: float = _LOGGER_TERM_S) -> None:
    """Wait for the logger of an exited task to finish; terminate, then kill it, if it does not."""
    for sig in (0, _SIGTERM, _SIGKILL):
        if sig:
            procs.kill(*logger, sig)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await procs.wait_pidfd(*logger)
                return
