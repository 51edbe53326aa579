"""What the configured runsc can do, asked once and kept by the identity of its binary."""

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
    """Keeps the answer until the binary changes, in memory and in a file that owners share."""

    def __init__(
        self, name: str, path: Path | None = None, flags: Mapping[str, str] | None = None
    ) -> None:
        """Take the program's name, where its answers are kept, and the flags that it must take."""
        self._name = name
        self._path = path
        self._flags = dict(flags or {})
        self._known: Capabilities | None = None
        self._lock = asyncio.Lock()

    async def capabilities(self) -> Capabilities:
        """Return what the configured runsc can do.

        Raises:
            Unavailable: there is no such program, or it does not answer as runsc does.
            InvalidArgument: it does not take the configured flags; the message has its own line.
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
        except CryoError as error:  # a full disk, say: then each owner asks for itself
            _log.warning("what runsc can do is not kept: %s", error)
