"""Terminals: receive the pty that runsc opens, copy between it and the client, resize it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import tempfile
import termios
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from shim.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from shim.host import procs
from shim.host.files import remove_tree
from shim.host.oserror import typed
from shim.host.unix_socket import PATH_MAX

_CHUNK = 32 * 1024
_BUFFER_MAX = 128 * 1024
_SIZE_MAX = 0xFFFF


class ConsoleSocket:
    """A listening socket at `path`, in a folder of its own, for `runsc create -console-socket`."""

    def __init__(self, parent: Path) -> None:
        """Listen below `parent`, or in the system's temporary folder if that path is too long."""
        self._folder = _short_folder(parent)
        self.path = self._folder / "s"
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.setblocking(False)
            self._sock.bind(str(self.path))
            self._sock.listen(1)
        except OSError as error:
            self.close()
            raise typed(error, f"listen at {self.path}") from error

    async def receive(self, timeout_s: float) -> int:
        """Return the pty master that runsc sends; the caller closes it.

        Raises:
            DeadlineExceeded: nothing arrived in time.
            FailedPrecondition: no terminal was received.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                sender, _ = await loop.sock_accept(self._sock)
                with sender:
                    await procs.readable(sender.fileno())
                    return _take_terminal(sender)
        except TimeoutError as error:
            message = f"runsc sent no terminal within {timeout_s:g} s"
            raise DeadlineExceeded(message) from error

    def close(self) -> None:
        """Stop listening and remove the folder."""
        self._sock.close()
        remove_tree(self._folder)


def _short_folder(parent: Path) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="tty-", dir=parent))
    except OSError as error:
        raise typed(error, f"make a folder in {parent}") from error
    if len(os.fsencode(folder / "s")) <= PATH_MAX:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="cryo-tty-"))


def _take_terminal(sender: socket.socket) -> int:
    _, fds, _, _ = socket.recv_fds(sender, 4096, 4, socket.MSG_CMSG_CLOEXEC)
    for extra in fds[1:]:
        os.close(extra)
    if fds and os.isatty(fds[0]):
        return fds[0]
    for fd in fds[:1]:
        os.close(fd)
    message = "runsc sent no terminal over the console socket"
    raise FailedPrecondition(message)


class Size(NamedTuple):
    """The size of a terminal in characters."""

    width: int
    height: int

    def check(self) -> Self:
        """Return the size if it is valid.

        Raises:
            InvalidArgument: it is not.
        """
        if not all(0 <= length <= _SIZE_MAX for length in self):
            message = f"a terminal cannot be {self.width} by {self.height}"
            raise InvalidArgument(message, remedy=f"use sizes from 0 to {_SIZE_MAX}")
        return self


def resize(master: int, width: int, height: int) -> None:
    """Set the size of a terminal in characters.

    Raises:
        InvalidArgument: the size is not valid.
    """
    Size(width, height).check()
    try:
        termios.tcsetwinsize(master, (height, width))
    except (OSError, termios.error) as error:
        number = error.args[0] if error.args else errno.EIO
        raise typed(OSError(number, os.strerror(number)), "resize the terminal") from error


class _Interest:
    """Calls back while a descriptor is ready, if enabled. A regular file is always ready."""

    def __init__(
        self,
        add: Callable[[int, Callable[[], None]], None],
        remove: Callable[[int], bool],
        fd: int,
        then: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._add, self._remove, self._fd, self._then = add, remove, fd, then
        self._on = self._unwatched = self._scheduled = False

    def set(self, wanted: bool) -> None:  # noqa: FBT001 - a switch
        """Enable or disable; no effect if unchanged."""
        if wanted == self._on:
            return
        self._on = wanted
        if not wanted:
            self._stop()
        else:
            self._start()

    def _stop(self) -> None:
        if not self._unwatched:
            self._remove(self._fd)

    def _start(self) -> None:
        if not self._unwatched:
            try:
                self._add(self._fd, self._then)
            except PermissionError:  # epoll takes no regular file and no /dev/null
                self._unwatched = True
        self._again()

    def _again(self) -> None:
        if self._unwatched and self._on and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._fire)

    def _fire(self) -> None:
        self._scheduled = False
        if self._on:
            self._then()
        self._again()


class _Copy:
    """One direction, with a bounded buffer. `done` is set at EOF, once all input was written."""

    def __init__(self, source: int, target: int) -> None:
        loop = asyncio.get_running_loop()
        self._source, self._target = source, target
        self._buffer = bytearray()
        self._ended = self._deaf = False
        self._reading = _Interest(loop.add_reader, loop.remove_reader, source, self._on_read)
        self._writing = _Interest(loop.add_writer, loop.remove_writer, target, self._on_write)
        self.done = asyncio.Event()
        self._adjust()

    def _adjust(self) -> None:
        """Read only while there is room in the buffer, write only while there is data."""
        self._reading.set(not self._ended and len(self._buffer) < _BUFFER_MAX)
        self._writing.set(bool(self._buffer))
        if self._ended and not self._buffer:
            self.done.set()

    def _on_read(self) -> None:
        try:
            data = os.read(self._source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the other side of the terminal was closed
            data = b""
        self._ended = not data
        if not self._deaf:
            self._buffer += data
        self._adjust()

    def _on_write(self) -> None:
        try:
            count = os.write(self._target, self._buffer[:_CHUNK])
        except BlockingIOError:
            return
        except OSError:
            # No process will read it: discard output from here on, so that no writer blocks.
            self._deaf = True
            count = len(self._buffer)
        del self._buffer[:count]
        self._adjust()

    def stop(self) -> None:
        """Stop; buffered data is lost."""
        self._ended = True
        self._buffer.clear()
        self._adjust()


class Console:
    """A terminal connected to its streams. Owns the three descriptors until `close()`.

    Output continues after the end of stdin, as with `docker run -t`.
    """

    def __init__(self, master: int, stdin: int, stdout: int, *, with_input: bool = True) -> None:
        """Start copying output, and input if `with_input`; otherwise `pass_input` starts it."""
        self._fds = [master, stdin, stdout]
        for fd in self._fds:
            os.set_blocking(fd, False)
        self._master, self._stdin = master, stdin
        self._output = _Copy(master, stdout)
        self._input: _Copy | None = None
        if with_input:
            self.pass_input()

    def pass_input(self) -> None:
        """Start copying the input."""
        if self._input is None:
            self._input = _Copy(self._stdin, self._master)

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size in characters."""
        resize(self._master, width, height)

    async def finished(self, timeout_s: float) -> bool:
        """Wait until all output is written; False if its reader did not take it in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._output.done.wait()
                return True
        return False

    def close(self) -> None:
        """Stop copying and close everything, so that the client's reader sees the end."""
        self._output.stop()
        if self._input is not None:
            self._input.stop()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
