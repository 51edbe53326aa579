"""A sidecar whose page is served, and a small HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from shim.config import Http
from shim.entry.serve import Sidecar
from tests.wire.fakes import FakeTasks, as_tasks
from tests.wire.test_serve import config_of, listening

WAIT_S = 30.0
_LIMIT = 1 << 22


@dataclass(frozen=True)
class Answer:
    """An answer of the page."""

    status: int
    headers: dict[str, str]
    body: str


class Served:
    """A sidecar whose page is served."""

    def __init__(self, state: Path, core: FakeTasks, where: str) -> None:
        self.state = state
        self.core = core
        self.where = where

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.where.startswith("unix:"):
            path = self.where.removeprefix("unix:")
            return await asyncio.open_unix_connection(path, limit=_LIMIT)
        host, _, port = self.where.removeprefix("http://").rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port), limit=_LIMIT)

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send a request on a connection of its own."""
        reader, writer = await self.connect()
        try:
            writer.write(request(path, method, **headers))
            async with asyncio.timeout(WAIT_S):
                data = await reader.read()
        finally:
            writer.close()
        head, _, body = data.decode().partition("\r\n\r\n")
        status, *lines = head.split("\r\n")
        found = dict(line.lower().split(": ", 1) for line in lines)
        return Answer(status=int(status.split()[1]), headers=found, body=body)

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[Events]:
        """Watch the overview as a browser does."""
        reader, writer = await self.connect()
        writer.write(request("/events"))
        try:
            async with asyncio.timeout(WAIT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 200 OK\r\n"), head
            assert "text/event-stream" in head
            yield Events(reader)
        finally:
            writer.close()


class Events:
    """The events of a stream."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader

    async def until(self, name: str, text: str) -> str:
        """Return the next part of this name that has a text."""
        async with asyncio.timeout(WAIT_S):
            while True:
                found, html = await self.next()
                if found == name and text in html:
                    return html

    async def next(self) -> tuple[str, str]:
        """Return the name and the HTML of the next event; those without a name are left out."""
        while True:
            lines = (await self.reader.readuntil(b"\n\n")).decode().splitlines()
            names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
            if names:
                data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
                return names[0], "\n".join(data)

    async def end(self) -> None:
        """Wait until the server has ended the stream."""
        async with asyncio.timeout(WAIT_S):
            while await self.reader.read(1 << 16):
                pass


def request(path: str, method: str = "GET", **headers: str) -> bytes:
    """Write a request."""
    given = {"host": "127.0.0.1", "connection": "close"} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


@contextlib.asynccontextmanager
async def served(
    address: str,
    caplog: pytest.LogCaptureFixture,
    http: Http | None = None,
    core: FakeTasks | None = None,
) -> AsyncIterator[Served]:
    """Run a sidecar, and stop it."""
    core = core or FakeTasks()
    config = replace(config_of(address), http=http or Http(address="127.0.0.1:0"))
    state = Path(config.paths.state)
    paths = replace(config.paths, images=str(state / "images"), verified=str(state / "verified"))
    caplog.set_level(logging.INFO, "shim.page.sidecar")
    caplog.clear()
    life = asyncio.create_task(
        Sidecar(replace(config, paths=paths), as_tasks(core), "/etc/cryo/config.toml").serve()
    )
    try:
        await listening(address)
        (where,) = re.findall(r"the page is served on (\S+)", caplog.text)
        yield Served(state, core, where)
    finally:
        core.release.set()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(life, 60)
