"""Whether a container is ready to be saved: the checks of its annotation io.cryo.warm-when.

exec CMD            the command exits with 0; no shell, so `exec sh -c '...'` for one
http://:PORT/PATH   a GET to the sandbox's loopback is answered with 2xx or 3xx
tcp://:PORT         a port of the sandbox's loopback accepts a connection
file:PATH           the file exists in the container
self                the application requests its checkpoint, by a file in io.cryo.instance
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from shim.errors import CryoError, DeadlineExceeded, InvalidArgument, NotFound
from shim.host import http
from shim.host.text import printable
from shim.model import Value
from shim.oci.app_hooks import Command, parse_action, parse_port
from shim.runsc.port_forward import PortStream
from shim.runsc.run import Completed
from shim.task.instance import REQUEST

TRY_S = 10.0
# A server that listens and does not accept yet, as one that loads a model, queues each connection.
# At a full queue the sentry waits for the next one, and runs no exec meanwhile (measured). So a
# request waits for its answer and is not repeated in a new connection, and after an attempt
# that timed out there is a pause: longer than the 127 s that a connection is tried.
_ANSWER_S = 3600.0
_PAUSE_S = 130.0
_TEXT_MAX = 4096
# Where a hook may name the host too, as in http://localhost:80/, a check may not.
_AS_HOOKS = ("exec ", "http://:")
_TCP = re.compile(r"tcp://:([0-9]{1,5})")
_GOOD = range(200, 400)
_REMEDY = "use exec CMD, http://:PORT/PATH, tcp://:PORT, file:PATH or self"


class Checked(Protocol):
    """A container that is asked whether it is ready."""

    async def run(self, argv: Sequence[str], *, timeout_s: float) -> Completed:
        """Run a program in the container."""

    def connect(self, port: int, *, timeout_s: float) -> AbstractAsyncContextManager[PortStream]:
        """Connect to a port of the sandbox's loopback."""

    async def has_file(self, path: str) -> bool:
        """Whether a file exists in the container."""


class NotReady(CryoError):
    """The check ran, and the container is not ready."""


class CommandCheck(Value):
    """A command that exits with 0."""

    argv: tuple[str, ...]

    async def check(self, container: Checked) -> None:
        """Run the command."""
        try:
            done = await container.run(self.argv, timeout_s=TRY_S)
        except NotFound as error:
            raise NotReady(error.message) from error
        if done.status:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            line = printable(said.splitlines()[-1], 200) if said else "no output"
            message = f"{self.argv[0]} exited with {done.status}: {line}"
            raise NotReady(message)


class HttpCheck(Value):
    """A GET that is answered with 2xx or 3xx."""

    port: int
    path: str

    async def check(self, container: Checked) -> None:
        """Send the request, and read the status."""
        async with container.connect(self.port, timeout_s=TRY_S) as stream:
            host = f"localhost:{self.port}"
            answer = await http.request(*stream, "GET", self.path, host=host, timeout_s=_ANSWER_S)
        if answer.status not in _GOOD:
            message = f"GET {self.path} on port {self.port} was answered with {answer.status}"
            raise NotReady(message)


class TcpCheck(Value):
    """A port that accepts a connection."""

    port: int

    async def check(self, container: Checked) -> None:
        """Connect."""
        async with container.connect(self.port, timeout_s=TRY_S):
            pass


class FileCheck(Value):
    """A file that exists."""

    path: str

    async def check(self, container: Checked) -> None:
        """Look for the file."""
        if not await container.has_file(self.path):
            message = f"{self.path} does not exist"
            raise NotReady(message)


Check: TypeAlias = CommandCheck | HttpCheck | TcpCheck | FileCheck


def parse(text: str) -> Check:
    """Parse the value of the annotation.

    Raises:
        InvalidArgument: it names no check.
    """
    try:
        return _parsed(text)
    except ValueError as error:
        message = f"{printable(text, 200)!r} is not a readiness check"
        raise InvalidArgument(message, remedy=_REMEDY) from error


def _parsed(text: str) -> Check:
    if len(text) > _TEXT_MAX or "\0" in text:
        raise ValueError(text)
    if text.startswith(_AS_HOOKS):
        action = parse_action(text)
        if isinstance(action, Command):
            return CommandCheck(argv=action.argv)
        return HttpCheck(port=action.port, path=action.target)
    if text == "self":
        return FileCheck(path=REQUEST)
    if text.startswith("file:/"):
        return FileCheck(path=text.removeprefix("file:"))
    tcp = _TCP.fullmatch(text)
    if tcp is None:
        raise ValueError(text)
    return TcpCheck(port=parse_port(tcp.group(1)))


async def until_ready(
    attempt: Callable[[], Awaitable[None]], period_s: float, note: Callable[[CryoError], None]
) -> None:
    """Repeat an attempt until it succeeds; `note` gets the reason of each one that does not."""
    while True:
        pause_s = period_s
        try:
            await attempt()
        except DeadlineExceeded as error:
            note(error)
            pause_s = max(period_s, _PAUSE_S)
        except CryoError as error:
            note(error)
        else:
            return
        await asyncio.sleep(pause_s)
