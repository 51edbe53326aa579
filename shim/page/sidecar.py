"""Joins the page to a sidecar: its settings, its service, and the life of its server."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from shim.config import Config
from shim.page import address
from shim.page.guard import Guard
from shim.page.operations import Change, Operations
from shim.page.reads import Reads
from shim.page.routes import Pages
from shim.page.server import PageServer
from shim.service.service import Service
from shim.service.watched import Watch

_log = logging.getLogger(__name__)


class SidecarPage:
    """The page of one sidecar."""

    def __init__(self, config: Config, settings_path: str = "") -> None:
        """Check where to listen; `settings_path` is where the settings are from.

        Raises:
            CryoError: the address or the token is not usable.
        """
        self._config = config
        self._settings_path = settings_path
        self._address, self._access = address.checked(config.http)
        self._operations = Operations()

    @property
    def watch(self) -> Watch:
        """Return what follows the requests with progress."""
        return self._operations.watch

    @contextlib.asynccontextmanager
    async def serving(self, service: Service) -> AsyncIterator[None]:
        """Serve the page of a service.

        Raises:
            AlreadyExists, Unavailable: the address cannot be bound.
        """
        reads = Reads(self._config, self._settings_path, service, self._operations)
        pages = Pages(reads)

        def changed(change: Change) -> None:
            reads.change(change)
            pages.feed.change()

        self._operations.on_change = changed
        any_host = self._access.needs_token or bool(self._address.path)
        guard = Guard(pages.app, self._access, any_host=any_host)
        server = PageServer(guard, self._address, self._config.http.group)
        _log.info("the page is served on %s", server.start())
        try:
            yield
        finally:
            await pages.feed.close()
            await server.stop()
            await reads.close()
