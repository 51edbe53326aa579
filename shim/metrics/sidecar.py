"""Joins the metrics of a sidecar to its tasks, its shims and its settings."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from shim.config import Config
from shim.metrics import address
from shim.metrics.exporter import Exporter
from shim.metrics.server import MetricsServer
from shim.service.answered import Observe
from shim.service.shims import Shims
from shim.task.tasks import Tasks
from shim.transaction import observers

_log = logging.getLogger(__name__)


class SidecarMetrics:
    """The metrics of one sidecar, and the server that gives them to Prometheus."""

    def __init__(self, config: Config, tasks: Tasks, shims: Shims) -> None:
        """Check where to listen.

        Raises:
            InvalidArgument: the address is not valid, or other machines would reach it.
        """
        where = address.parse(config.metrics.address)
        self._exporter = Exporter(config, tasks.list, shims.list, tasks.images.list)
        self._server = MetricsServer(where, config.metrics.group, self._exporter.scrape)

    @property
    def observe(self) -> Observe:
        """Return what counts the requests that were answered."""
        return self._exporter.observer.answered

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Count the operations of this context, and of its asyncio tasks, and serve scrapes.

        Raises:
            AlreadyExists, Unavailable: the address cannot be bound.
        """
        with observers.observed_by(ended=self._exporter.observer.timeline):
            _log.info("metrics are served on %s", await self._server.start())
            try:
                yield
            finally:
                await self._server.stop()
                await self._exporter.close()
