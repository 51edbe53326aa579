"""The capabilities of the configured runsc, probed once and cached by the binary's identity."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from shim.errors import CryoError
from shim.runsc import known
from shim.runsc.probe import Capabilities, check_flags, find_binary, identity, probe

_log = logging.getLogger(__name__)


class Prober:
    """Caches the capabilities until the binary changes, in memory and in a file of all owners."""

    def __init__(
        self, name: str, path: Path | None = None, flags: Mapping[str, str] | None = None
    ) -> None:
        """Take the program's name, the cache file's path, and the flags that runsc must accept."""
        self._name = name
        self._path = path
        self._flags = dict(flags or {})
        self._known: Capabilities | None = None
        self._lock = asyncio.Lock()

    async def capabilities(self) -> Capabilities:
        """Return the capabilities of the configured runsc.

        Raises:
            Unavailable: there is no such program, or its output is not runsc's.
            InvalidArgument: it rejects the configured flags; the message has its error line.
        """
        async with self._lock:
            now = self._known
            binary = find_binary(self._name)
            seen = identity(binary)
            if now is None or (now.binary, now.identity) != (binary, seen):
                now = self._known = await self._find(binary, seen)
            return now

    async def _find(self, binary: str, seen: tuple[int, ...]) -> Capabilities:
        if self._path is None:
            return await self._probe(binary)
        found = known.recall(self._path, binary, seen, self._flags)
        if found is None:
            found = await self._probe(binary)
            self._keep(self._path, found)
        return found

    async def _probe(self, binary: str) -> Capabilities:
        found = await probe(binary)
        await check_flags(binary, self._flags)
        return found

    def _keep(self, path: Path, found: Capabilities) -> None:
        try:
            known.keep(path, found, self._flags)
        except CryoError as error:  # such as a full disk: then each owner probes for itself
            _log.warning("cannot save the capabilities of runsc: %s", error)
