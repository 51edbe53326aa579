"""The shim process: serves the Task service over ttrpc for one container or pod.

Runs in a fork of the fork server, on a socket that `start` has bound.
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
from typing import NamedTuple, NoReturn

from shim import config as configs
from shim.config import Config
from shim.entry import logs
from shim.entry.shimbin import flags as command_line
from shim.entry.shimbin import paths
from shim.entry.shimbin.flags import Flags
from shim.entry.shimbin.logfifo import FifoHandler
from shim.errors import CryoError, NotFound
from shim.host import prctl, trace_context
from shim.host.environment import private_umask
from shim.service.events import Publisher
from shim.service.service import Service
from shim.service.ttrpc.server import Server
from shim.service.ttrpc_edge import shim_services
from shim.task import operation_events
from shim.task.runtime_env import ShimEnv
from shim.task.tasks import Tasks
from shim.tracing import setup as tracing
from shim.transaction import host_settings, observers

_log = logging.getLogger("cryo")
_GOODBYE_S = 3.0
_OOM_SCORE = "-999"


class SocketFile:
    """The file of our socket, which another shim may have replaced."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._own_inode = self._inode()

    def _inode(self) -> int | None:
        with contextlib.suppress(OSError):
            return self._path.stat().st_ino
        return None

    def remove(self) -> None:
        """Remove it, unless it belongs to another shim."""
        if self._inode() == self._own_inode:
            with contextlib.suppress(OSError):
                self._path.unlink()


class Shim:
    """A shim: serves until a Shutdown call while it has no tasks."""

    def __init__(
        self, config: Config, flags: Flags, listener: socket.socket, socket_path: str
    ) -> None:
        self._socket_file = SocketFile(socket_path)
        state = Path(paths.of_containerd(config.paths.state, flags.address))
        self._config = config
        self._namespace = flags.namespace
        self._listener = listener
        self._publisher = Publisher(os.environ.get("TTRPC_ADDRESS") or f"{flags.address}.ttrpc")
        self._tasks = Tasks(config, self._publisher.publish, ShimEnv(state, socket_path))
        self._service = Service(self._tasks, shutdown=self._shutdown)
        self._done = asyncio.Event()

    async def serve(self) -> None:
        """Adopt the tasks, serve, and shut down."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        traced = observers.observed_by(ended=trace_context.operation)
        with operation_events.published_by(self._publisher.publish), traced:
            await self._serve()

    async def _serve(self) -> None:
        await self._tasks.recover()
        services = shim_services(self._service, self._namespace)
        server = Server(services, on_idle=self._on_idle)
        server.serve(self._listener)
        _log.info("serving")
        await self._done.wait()
        self._service.waits.close()
        # containerd ignores NotFound when it stops a task that has already exited.
        await server.close(_GOODBYE_S, NotFound("the task has been deleted"))
        await self._tasks.close()
        await self._publisher.close(_GOODBYE_S)

    def _shutdown(self, _request: object) -> None:
        """Shut down if there are no tasks: containerd calls this after every Delete."""
        if self._tasks.empty:
            # Before the response, after which a container with the same id may start.
            self._end()

    def _on_idle(self) -> None:
        """Shut down if the tasks are gone: a containerd that has left sends no Shutdown."""
        if self._tasks.spent:
            _log.info("shutting down: the tasks and the last connection are gone")
            self._end()

    def _end(self) -> None:
        self._socket_file.remove()
        self._done.set()

    def _on_signal(self) -> None:
        """Shut down if there are no tasks: `delete` would kill them."""
        if self._tasks.empty:
            self._end()
        else:
            _log.warning("ignored a termination signal: tasks are running")


class StartRequest(NamedTuple):
    """A request of `start` to the fork server: the arguments and environment of a shim."""

    argv: list[str]
    socket: str
    cwd: str
    env: dict[str, str]


def settings() -> Config:
    """Load config.toml, or the defaults if it does not exist."""
    path = Path(paths.default_config())
    return configs.load(path) if path.exists() else Config()


# What the settings of the host were changed to; None before that.
_adjusted: str | None = None


def adjust_host() -> None:
    """Change the host's settings as configured, once for all shims that are forked later.

    An error in config.toml is reported by the shim itself.
    """
    global _adjusted  # noqa: PLW0603 - the shims inherit it
    with contextlib.suppress(CryoError):
        _adjusted = host_settings.adjust(settings())


def become(request: StartRequest, fd: int) -> NoReturn:
    """Turn this fork of the fork server into a shim that serves the socket `fd`."""
    status = 1
    try:
        os.setsid()
        prctl.set_name("cryo-shim")
        private_umask()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(request.env)
        run(request, fd)
        status = 0
    finally:
        os._exit(status)


def run(request: StartRequest, fd: int) -> None:
    """Run the requested shim until it shuts down."""
    flags = command_line.parse(request.argv)
    _detach(Path(request.cwd), debug=flags.debug)
    tracing.set_up("cryo-shim")
    listener, name = socket.socket(fileno=fd), SocketFile(request.socket)
    if _adjusted is None:
        adjust_host()
    if _adjusted:
        _log.warning("%s", _adjusted)
    try:
        asyncio.run(_serve(settings(), flags, listener, request.socket))
    except Exception:
        _log.exception("the shim failed")
        raise
    finally:
        name.remove()
        trace_context.close()


async def _serve(config: Config, flags: Flags, listener: socket.socket, path: str) -> None:
    await Shim(config, flags, listener, path).serve()


def _detach(bundle: Path, *, debug: bool) -> None:
    """Close the streams that containerd waits for, and log to the bundle's FIFO."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    os.chdir("/")
    log_to(bundle / "log", debug=debug)
    # Lowering it requires CAP_SYS_RESOURCE, which is optional.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, "ascii")
    sys.excepthook = lambda kind, error, trace: _log.error("failed", exc_info=(kind, error, trace))


def log_to(fifo: Path, *, debug: bool) -> None:
    """Log to a FIFO, and nowhere else."""
    handler = FifoHandler(fifo)
    handler.setFormatter(logs.Logfmt(runtime="cryo"))
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)
