"""The shim process: the Task service over ttrpc for one container or pod, until containerd is done.

Runs in a fork of the nursery, on a socket that is bound already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from shim import config as configs
from shim.config import Config
from shim.entry import logs
from shim.entry.shimbin import flags as command_line
from shim.entry.shimbin import places
from shim.entry.shimbin.flags import Flags
from shim.entry.shimbin.logfifo import FifoHandler
from shim.task.house import ShimHouse
from shim.task.tasks import Tasks
from shim.wire import ttrpc_cryo, ttrpc_task
from shim.wire.drain import Drain
from shim.wire.events import Publisher
from shim.wire.task_methods import TaskMethods
from shim.wire.ttrpc.server import Server

_log = logging.getLogger("cryo")
_GOODBYE_S = 3.0
_OOM_SCORE = "-999"


class SocketName:
    """The name of our socket, as long as it is ours: another shim may have taken it since."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._made = self._number()

    def _number(self) -> int:
        with contextlib.suppress(OSError):
            return self._path.stat().st_ino
        return 0

    def remove(self) -> None:
        """Remove it; gone already is fine."""
        if self._number() == self._made:
            with contextlib.suppress(OSError):
                self._path.unlink()


class Shim:
    """One shim: serves until Shutdown comes while it has no task."""

    def __init__(
        self, config: Config, flags: Flags, listener: socket.socket, socket_path: str
    ) -> None:
        self._name = SocketName(socket_path)
        state = Path(places.of_containerd(config.paths.state, flags.address))
        self._config = config
        self._namespace = flags.namespace
        self._listener = listener
        self._publisher = Publisher(os.environ.get("TTRPC_ADDRESS") or f"{flags.address}.ttrpc")
        self._tasks = Tasks(config, self._publisher.publish, ShimHouse(state, socket_path))
        self._drain = Drain()
        self._done = asyncio.Event()

    async def live(self) -> None:
        """Serve, and leave in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signaled)
        await self._tasks.recover()
        methods = TaskMethods(self._tasks, self._drain, self._shutdown)
        table = ttrpc_task.services(methods, self._namespace)
        server = Server({**table, **ttrpc_cryo.services(self._tasks)})
        server.serve(self._listener)
        _log.info("serving")
        await self._done.wait()
        self._drain.close()
        await server.close(_GOODBYE_S)
        await self._tasks.close()
        await self._publisher.close(_GOODBYE_S)

    def _shutdown(self, _request: object) -> None:
        """End when nothing is left: containerd says this after every Delete."""
        if self._tasks.empty:
            # Before the answer: after it the next container of this id may start.
            self._name.remove()
            self._done.set()

    def _signaled(self) -> None:
        """Stay while there are tasks: they would end with us."""
        if self._tasks.empty:
            self._name.remove()
            self._done.set()
        else:
            _log.warning("a signal to end was ignored: tasks are running")


class Words(NamedTuple):
    """What `start` passed on: its arguments and surroundings."""

    argv: list[str]
    socket: str
    cwd: str
    env: dict[str, str]


def settings() -> Config:
    """Read config.toml where there is one."""
    path = Path(places.config_path())
    return configs.load(path) if path.exists() else Config()


def run(words: Words, fd: int) -> None:
    """Be the shim that `start` asked for, to its end."""
    flags = command_line.parse(words.argv)
    _detach(Path(words.cwd), debug=flags.debug)
    listener, name = socket.socket(fileno=fd), SocketName(words.socket)
    try:
        asyncio.run(_live(settings(), flags, listener, words.socket))
    except Exception:
        _log.exception("the shim failed")
        raise
    finally:
        name.remove()


async def _live(config: Config, flags: Flags, listener: socket.socket, path: str) -> None:
    await Shim(config, flags, listener, path).live()


def _detach(bundle: Path, *, debug: bool) -> None:
    """Let go of everything that containerd waits for, and log to the bundle's fifo."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    os.chdir("/")
    handler = FifoHandler(bundle / "log")
    handler.setFormatter(logs.Pairs())
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Without CAP_SYS_RESOURCE it may not be lowered, which is no reason not to run.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, "ascii")
    sys.excepthook = lambda kind, error, trace: _log.error("failed", exc_info=(kind, error, trace))
