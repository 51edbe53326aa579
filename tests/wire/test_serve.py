"""The sidecar's life, from its settings to its last signal."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from shim.api.containerd.task.v3 import shim_pb2
from shim.client import AsyncClient
from shim.config import Config, Paths, Server, Timeouts
from shim.entry import logs, recover
from shim.entry.serve import Overrides, Sidecar, notify, settings
from shim.errors import DeadlineExceeded, InvalidArgument
from shim.host import log_fields
from shim.model import Stdio, TaskRef
from shim.service import address as addresses
from shim.service import ttrpc_edge
from shim.service.ttrpc.client import Client as TtrpcClient
from tests.wire.fakes import FakeTasks, as_tasks


def test_the_command_line_comes_before_the_file(tmp_path: Path) -> None:
    """What is given replaces what config.toml says, flags one by one; the rest stays."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[paths]\nstate = "/s"\nimages = "/i"\n[server]\ngroup = "g"\n'
        '[runsc]\nbinary = "/r"\nflags = {network = "host", debug = "true"}\n'
    )
    found = settings(path, Overrides(state="/t", runsc_flags=(("network", "none"),)))

    assert (found.paths.state, found.paths.images) == ("/t", "/i")
    assert found.server.group == "g"
    assert found.runsc.binary == "/r"
    assert found.runsc.flags == {"network": "none", "debug": "true"}


def test_folders_count_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative folder is the one that the caller means, wherever runsc is started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text("[paths]\nimages = 'i'\n")

    found = settings(tmp_path / "config.toml", Overrides(state="a/../s"))

    assert found.paths.state == f"{tmp_path}/a/../s"
    assert found.paths.images == f"{tmp_path}/i"


def test_a_recovery_makes_private_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `cryo recover` writes is not readable by others, as what the sidecar writes."""

    async def made(_config: Config) -> list[str]:
        (tmp_path / "file").touch()
        return []

    monkeypatch.setattr(recover, "_recover", made)
    before = os.umask(0o022)
    try:
        recover.run(Config())
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    """A key that is not known is an error that names the file."""
    path = tmp_path / "config.toml"
    path.write_text("[paths]\nstat = 5\n")
    with pytest.raises(InvalidArgument, match=r"config\.toml"):
        settings(path, Overrides())


def config_of(address: str, **timeouts: float) -> Config:
    """Configure a sidecar that lives in the test's folder."""
    state = str(Path(addresses.parse(address)).parent)
    return Config(
        paths=Paths(state=state), server=Server(address=address), timeouts=Timeouts(**timeouts)
    )


async def bound(address: str) -> None:
    """Wait until a socket is there."""
    async with asyncio.timeout(60):
        while not Path(addresses.parse(address)).exists():  # noqa: ASYNC110  # bounded, and there is no event
            await asyncio.sleep(0.01)


async def listening(address: str) -> None:
    """Wait until a sidecar answers."""
    await bound(address)
    async with AsyncClient(address) as client:
        await client.images()


async def test_containerd_has_a_socket_of_its_own(address: str) -> None:
    """The Task service is there over ttrpc too where that is configured, until the end."""
    config = config_of(address)
    second = f"{config.paths.state}/ttrpc.sock"
    server = Server(address=address, ttrpc=second)
    life = asyncio.create_task(
        Sidecar(replace(config, server=server), as_tasks(FakeTasks())).serve()
    )
    await bound(second)
    client = await TtrpcClient.connect(second)
    request = shim_pb2.ConnectRequest(id="nobody")
    answer = await client.call(ttrpc_edge.V3, "Connect", request, shim_pb2.ConnectResponse)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(life, 60)

    assert answer.shim_pid == os.getpid()
    assert not Path(second).exists()
    await client.close()


async def test_a_signal_ends_it_in_order(address: str) -> None:
    """It recovers before it listens, and at SIGTERM the core is closed and the socket gone."""
    core = FakeTasks()
    life = asyncio.create_task(Sidecar(config_of(address), as_tasks(core)).serve())
    await listening(address)
    recovered = core.recovered
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(life, 60)

    assert recovered
    assert core.closed
    assert not Path(addresses.parse(address)).exists()


async def test_systemd_is_notified(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY=1 comes when it listens and STOPPING=1 before it goes."""
    path = Path(addresses.parse(address)).parent.with_name("notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        life = asyncio.create_task(Sidecar(config_of(address), as_tasks(FakeTasks())).serve())
        ready = await asyncio.to_thread(systemd.recv, 100)
        there = Path(addresses.parse(address)).exists()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(life, 60)
        stopping = systemd.recv(100)

    assert there
    assert (ready, stopping) == (b"READY=1", b"STOPPING=1")


def test_no_service_manager_to_notify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without systemd, or with one that is gone, nothing happens."""
    for value in ("", str(tmp_path / "gone"), "@cryo-no-such-socket"):
        monkeypatch.setenv("NOTIFY_SOCKET", value)
        notify("READY=1")


async def test_a_core_that_cannot_end_is_reported(address: str) -> None:
    """When neither finishing nor rolling back is done in time, the stop says so, and stops."""
    core = FakeTasks()

    async def never() -> None:
        await asyncio.Event().wait()

    core.close = never  # type: ignore[method-assign]  # one test's own fault
    sidecar = Sidecar(config_of(address, shutdown=0.1, rollback=0.1), as_tasks(core))
    life = asyncio.create_task(sidecar.serve())
    await listening(address)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(DeadlineExceeded, match="could not be rolled back"):
        await asyncio.wait_for(life, 60)


def test_a_second_signal_ends_it_at_once(address: str) -> None:
    """A second signal stops without waiting; the status says which signal."""
    program = f"""
import asyncio, os, signal
from tests.wire.fakes import FakeTasks, as_tasks
from tests.wire.test_serve import config_of
from shim.entry.serve import Sidecar

class Slow(FakeTasks):
    async def close(self):
        print("closing", flush=True)
        await asyncio.Event().wait()

async def main():
    asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGTERM)
    await Sidecar(config_of({address!r}), Slow()).serve()

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as ran:
        try:
            assert ran.stdout is not None
            assert ran.stdout.readline() == b"closing\n"
            ran.send_signal(signal.SIGTERM)
            assert ran.wait(20) == 128 + signal.SIGTERM
        finally:
            ran.kill()


def test_the_log_may_be_json() -> None:
    """Each record is one line of JSON, with its fields, and a traceback included."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.Json())
    logger = logging.Logger("test")  # noqa: LOG001  # apart from the ones of the process
    logger.addHandler(handler)
    try:
        int("a\nb")
    except ValueError:
        fields = log_fields.attached({"pid": 7, "stdio": Stdio(stdin="/secret")})
        logger.exception("it %s: %s", "failed", TaskRef(namespace="n", id="t"), extra=fields)
    [line] = out.getvalue().splitlines()
    found = json.loads(line)

    assert (found["level"], found["logger"], found["msg"]) == ("error", "test", "it failed: t")
    assert (found["namespace"], found["task"], found["pid"]) == ("n", "t", 7)
    assert "ValueError" in found["exception"]
    assert "secret" not in line
