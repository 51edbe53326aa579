"""The sidecar, `cryo serve`: read the settings, adopt running tasks, serve, and shut down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shim import config as configs
from shim.config import Config
from shim.entry import logs, optional
from shim.errors import CryoError, DeadlineExceeded
from shim.host import trace_context
from shim.host.background import BackgroundTasks
from shim.host.environment import private_umask
from shim.model import Event
from shim.service import answered, event_messages, watched
from shim.service.containerd_events import ContainerdEvents
from shim.service.endpoint import Endpoint
from shim.service.events import Publisher
from shim.service.server import Server
from shim.service.service import Service
from shim.service.shims import Shims
from shim.service.ttrpc_edge import TtrpcEdge
from shim.task import operation_events
from shim.task.tasks import Tasks, log_event
from shim.tracing import setup as tracing
from shim.transaction import host_settings, observers

_log = logging.getLogger("cryo")
_GOODBYE_S = 3.0
_HOUR_S = 3600.0
_SIGNALED = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Overrides:
    """Command-line options that override config.toml; empty ones do not."""

    address: str = ""
    state: str = ""
    images: str = ""
    runsc: str = ""
    runsc_flags: tuple[tuple[str, str], ...] = ()
    group: str = ""
    log_level: str = ""
    log_format: str = ""
    http: str = ""
    http_token_file: str = ""


def settings(path: Path | None, over: Overrides) -> Config:
    """Read config.toml and apply the command line.

    Raises:
        InvalidArgument: the file is invalid.
    """
    base = configs.load(path)
    replace = msgspec.structs.replace
    token = over.http_token_file or base.http.token_file
    return replace(
        base,
        paths=replace(
            base.paths,
            # runsc is started in `/`, and would resolve a relative path from there.
            state=str(Path(over.state or base.paths.state).absolute()),
            images=str(Path(over.images or base.paths.images).absolute()),
        ),
        server=replace(
            base.server,
            address=over.address or base.server.address,
            group=over.group or base.server.group,
        ),
        runsc=replace(
            base.runsc,
            binary=over.runsc or base.runsc.binary,
            flags={**base.runsc.flags, **dict(over.runsc_flags)},
        ),
        log=replace(
            base.log,
            level=over.log_level or base.log.level,
            format=over.log_format or base.log.format,
        ),
        http=replace(
            base.http,
            address=over.http or base.http.address,
            token_file=str(Path(token).absolute()) if token else "",
        ),
    )


class Sidecar:
    """The sidecar: `serve` returns after SIGTERM or SIGINT."""

    def __init__(self, config: Config, tasks: Tasks | None = None, settings_path: str = "") -> None:
        self._config = config
        state = Path(config.paths.state)
        endpoint = Endpoint(config.server.address, config.server.group, own_folder=state)
        containerd = config.server.containerd
        self._publisher = Publisher(containerd) if containerd else None
        self._tasks = tasks or Tasks(config, self._publish)
        shims = Shims(state, config.timeouts.rollback)
        self._metrics = optional.metrics(config, self._tasks, shims)
        observe = answered.ignore if self._metrics is None else self._metrics.observe
        self._page = optional.page(config, settings_path)
        watch = watched.unwatched if self._page is None else self._page.watch
        service = Service(self._tasks, shims=shims, observe=observe, watch=watch)
        self._service = service
        self._events = service.events
        if config.server.events:
            hub = service.events
            self._events.follow(
                ContainerdEvents(config.server.events, hub.publish_other, hub.upstream_is)
            )
        self._server = Server(service, endpoint)
        ttrpc = config.server.ttrpc
        self._ttrpc = TtrpcEdge(service, Endpoint(ttrpc)) if ttrpc else None
        self._hourly = BackgroundTasks()
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Recover, listen, wait for a signal, and finish or roll back running operations.

        Raises:
            CryoError: it cannot start.
        """
        traced = observers.observed_by(ended=trace_context.operation)
        with self._signals(), operation_events.published_by(self._publish), traced:
            async with contextlib.AsyncExitStack() as stack:
                if self._metrics is not None:
                    await stack.enter_async_context(self._metrics.serving())
                if self._page is not None:
                    await stack.enter_async_context(self._page.serving(self._service))
                await self._serve()

    async def _serve(self) -> None:
        if adjusted := host_settings.adjust(self._config):
            _log.warning("%s", adjusted)
        await self._tasks.recover()
        await self._listen()
        notify("READY=1")
        self._start_hourly()
        await self._stop.wait()
        notify("STOPPING=1")
        await self._hourly.aclose()
        await self._leave()
        _log.info("stopped; tasks continue to run")

    def _start_hourly(self) -> None:
        """Clean up now and every hour; a filesystem that hangs holds up only what looks at it."""
        tasks = self._tasks
        for name, work in (
            ("tidy", tasks.tidy),
            ("prune", tasks.images.prune),
            ("prune of the verification cache", tasks.images.prune_cache),
        ):
            self._hourly.start(_every_hour(name, work), name=name)

    def _publish(self, event: Event) -> None:
        """Log an event, and pass it on to those that follow, and to a containerd."""
        log_event(event)
        if self._events.has_readers:
            self._events.publish(event_messages.envelope(event))
        if self._publisher is not None:
            self._publisher.publish(event)

    async def _listen(self) -> None:
        await self._server.start()
        _log.info("listening on %s", self._config.server.address)
        if self._ttrpc is not None:
            self._ttrpc.start()
            _log.info("listening on %s for containerd", self._config.server.ttrpc)

    async def _leave(self) -> None:
        """Let running operations finish, and roll back those that do not.

        Raises:
            DeadlineExceeded: the rollback timed out too. The next sidecar does it from the journal.
        """
        timeouts = self._config.timeouts
        try:
            await self._server.stop(self._stop_work, timeouts.shutdown + timeouts.rollback)
        except TimeoutError as error:
            message = "running operations could not be rolled back in time"
            raise DeadlineExceeded(message, remedy="start the sidecar: it rolls back") from error

    async def _stop_work(self) -> None:
        """Close the core and containerd's connections in parallel, then send the last events."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tasks.close())
            if self._ttrpc is not None:
                timeouts = self._config.timeouts
                group.create_task(self._ttrpc.stop(timeouts.shutdown + timeouts.rollback))
        if self._publisher is not None:
            await self._publisher.close(_GOODBYE_S)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signaled, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signaled(self, number: signal.Signals) -> None:
        """Shut down gracefully on the first signal, exit immediately on the second."""
        if self._stop.is_set():
            os._exit(_SIGNALED + number)
        _log.info("%s: stopping", number.name)
        self._stop.set()


async def _every_hour(name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Work now and every hour; a failure is logged, and has no other effect."""
    while True:
        try:
            await work()
        except CryoError as error:
            _log.warning("%s: %s", name, error)
        except Exception:  # noqa: BLE001 - the sidecar must not fail with it
            _log.exception("the clean-up failed: %s", name)
        await asyncio.sleep(_HOUR_S)


def notify(state: str) -> None:
    """Notify systemd (sd_notify(3)), if NOTIFY_SOCKET is set."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect(path)
        sock.send(state.encode())


def _settings_path(path: Path | None) -> Path | str:
    """Return where the settings are from; empty if they are the defaults."""
    if path is None and not configs.DEFAULT_CONFIG.exists():
        return ""
    return path or configs.DEFAULT_CONFIG


def run(path: Path | None, over: Overrides) -> None:
    """Run the sidecar until it is stopped.

    Raises:
        CryoError: it cannot start, or not shut down in time.
    """
    config = settings(path, over)
    logs.set_up(config.log.level, config.log.format)
    private_umask()
    tracing.set_up("cryo-sidecar")

    async def live() -> None:
        await Sidecar(config, settings_path=str(_settings_path(path))).serve()

    asyncio.run(live())
