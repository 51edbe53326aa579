"""Who may reach the sidecar, and what lies in its way."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from shim.client import AsyncClient, Client
from shim.errors import AlreadyExists, InvalidArgument, PermissionDenied, Unavailable
from shim.service import address as addresses
from shim.service.endpoint import Endpoint
from shim.service.server import Server
from tests.wire.conftest import GRACE_S, Sidecar, serving
from tests.wire.fakes import FakeTasks, service_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing a group needs root")


def mode(path: Path) -> int:
    """Return a path's permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_only_the_owner_may_connect(server: Server, address: str) -> None:
    """The folder is 0700 and the socket 0600, whatever the umask was."""
    path = Path(addresses.parse(address))

    assert mode(path.parent) == 0o700
    assert mode(path) == 0o600


@needs_root
async def test_a_group_may_connect(address: str) -> None:
    """With a group the folder is 0710 and the socket 0660, both root's and the group's."""
    group = grp.getgrgid(os.getgrouplist("nobody", 65534)[0])
    core, path = FakeTasks(), Path(addresses.parse(address))
    server = Server(service_of(core), Endpoint(address, group.gr_name))
    await server.start()
    try:
        assert mode(path.parent) == 0o710
        assert mode(path) == 0o660
        assert (path.stat().st_uid, path.stat().st_gid) == (0, group.gr_gid)
        assert path.parent.stat().st_gid == group.gr_gid
    finally:
        await server.stop(core.close, GRACE_S)


async def test_the_umask_is_put_back(address: str) -> None:
    """Binding does not change how other files are made."""
    before = os.umask(0o022)
    try:
        async with serving(FakeTasks(), address):
            during = os.umask(0o022)
    finally:
        os.umask(before)

    assert during == 0o022


async def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """A folder of others is not changed, but one that is ours by configuration is closed."""
    (tmp_path / "theirs").mkdir(mode=0o755)
    (tmp_path / "ours").mkdir(mode=0o755)
    async with serving(FakeTasks(), f"unix://{tmp_path}/theirs/s"):
        pass
    ours = Endpoint(f"unix://{tmp_path}/ours/s", own_folder=tmp_path / "ours")
    ours.lock()
    ours.release()

    assert mode(tmp_path / "theirs") == 0o755
    assert mode(tmp_path / "ours") == 0o700


async def test_a_folder_that_others_write_is_refused(tmp_path: Path) -> None:
    """Where others could replace the socket it is not made."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionDenied, match="others may write"):
        Endpoint(f"unix://{tmp_path}/open/s").lock()


async def test_a_stale_socket_is_replaced(address: str) -> None:
    """What a killed sidecar left does not stop the next one."""
    path = Path(addresses.parse(address))
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(FakeTasks(), address), AsyncClient(address) as client:
        assert await client.images()


async def test_a_living_server_is_not_displaced(server: Server, address: str) -> None:
    """A second sidecar is refused, and the first still serves."""
    second = Server(service_of(FakeTasks()), Endpoint(address))
    with pytest.raises(AlreadyExists, match="another sidecar"):
        await second.start()
    await second.stop(FakeTasks().close, 1)
    async with AsyncClient(address) as client:
        assert await client.images()


async def test_anothers_socket_is_not_displaced(address: str) -> None:
    """A program that is no sidecar but answers there keeps its socket."""
    path = Path(addresses.parse(address))
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(AlreadyExists, match="another sidecar"):
            Endpoint(address).lock()
    assert path.exists()


async def test_a_file_is_not_displaced(address: str) -> None:
    """A path that holds something else is left alone."""
    path = Path(addresses.parse(address))
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    with pytest.raises(AlreadyExists, match="not a socket"):
        Endpoint(address).lock()
    assert path.read_text() == "precious"


async def test_a_refused_claim_can_be_tried_again(address: str) -> None:
    """A claim that failed leaves no lock behind."""
    path = Path(addresses.parse(address))
    path.parent.mkdir(mode=0o700)
    path.touch()
    with pytest.raises(AlreadyExists):
        Endpoint(address).lock()
    path.unlink()
    async with serving(FakeTasks(), address):
        pass


@pytest.mark.parametrize(
    "address", ("tcp://1.2.3.4:5", "cryo.sock", "unix:cryo.sock", "unix:///", "", "/" + "x" * 108)
)
def test_bad_addresses(address: str) -> None:
    """Only an absolute path that fits a socket is an address."""
    with pytest.raises(InvalidArgument):
        addresses.parse(address)


@pytest.mark.parametrize("address", ("unix:///a/b", "unix:/a/b", "/a/b"))
def test_good_addresses(address: str) -> None:
    """The usual ways to write a socket all mean it."""
    assert addresses.parse(address) == "/a/b"
    assert addresses.target(address) == "unix:/a/b"


def test_an_unknown_group_is_named() -> None:
    """A group that does not exist is an error before anything is made."""
    with pytest.raises(InvalidArgument, match="no-such-group"):
        Endpoint("/a/b", "no-such-group")


async def test_two_clients_at_once(server: Server, address: str, core: FakeTasks) -> None:
    """One client's long call does not hold up another's, on one socket."""
    core.hold = True
    async with AsyncClient(address) as one, AsyncClient(address) as two:
        checkpoint = asyncio.create_task(one.checkpoint("a"))
        await asyncio.wait_for(core.holding.wait(), 60)
        assert await two.images()
        core.release.set()
        await checkpoint


async def test_each_client_has_a_connection_of_its_own(server: Server, address: str) -> None:
    """A new one does not begin with what an older has lost and not yet noticed."""
    path = addresses.parse(address)

    def connections() -> int:
        lines = Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()
        # Type, state (3 is connected) and, at the end of the line, the path.
        fields = [line.split() for line in lines]
        return len([one for one in fields if one[-1] == path and one[5] == "03"])

    async with AsyncClient(address) as first, AsyncClient(address) as second:
        await first.list()
        assert connections() == 1
        await second.list()
        assert connections() == 2


class Slow:
    """A way to a server on which nothing arrives before some time is over."""

    def __init__(self, folder: Path, server: str, delay_s: float) -> None:
        self.path = folder / "slow.sock"
        self._server = server
        self._delay_s = delay_s
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._server)
                for pair in ((here, there), (there, here)):
                    self._threads.append(threading.Thread(target=self._carry, args=pair))
                    self._threads[-1].start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        time.sleep(self._delay_s)
        with source, contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Take no more connections, and wait for the end of those that there are."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)


def test_a_busy_sidecar_is_waited_for(sidecar: Sidecar, tmp_path: Path) -> None:
    """One that needs a second to greet a client is not said to be missing."""
    slow = Slow(tmp_path, addresses.parse(sidecar.address), 1.0)
    with contextlib.closing(slow), Client(f"unix://{slow.path}") as client:
        assert client.list() == []


async def test_a_client_finds_a_sidecar_that_was_started_again(address: str) -> None:
    """The same client object works across a restart, within seconds."""
    async with AsyncClient(address) as client:
        async with serving(FakeTasks(), address):
            await client.images()
        with pytest.raises(Unavailable):
            await client.images()
        async with asyncio.timeout(60), serving(FakeTasks(), address):
            while True:
                with contextlib.suppress(Unavailable):
                    await client.images()
                    break
                await asyncio.sleep(0.05)


@needs_root
def test_no_access_is_distinguished_from_no_server(tmp_path: Path) -> None:
    """A user without access gets that error, and not that nothing runs."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        child = os.fork()
        if child == 0:  # pragma: no cover  # counted in the child only
            status = 1
            try:
                os.setgid(65534)
                os.setuid(65534)
                from shim.client import calls

                status = int(calls._reachable(f"unix://{folder}/s"))
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with Client(f"unix://{folder}/gone") as client, pytest.raises(Exception, match="no sidecar"):
        client.info()


@needs_root
async def test_a_folder_of_another_users_is_refused(tmp_path: Path) -> None:
    """Another user could replace the socket and read root's requests; also in a folder above it."""
    (tmp_path / "his" / "below").mkdir(parents=True)
    os.chown(tmp_path / "his", 65534, 65534)

    for path in ("his/s", "his/below/s", "his/new/s"):
        with pytest.raises(PermissionDenied, match="his belongs to user 65534"):
            Endpoint(f"unix://{tmp_path}/{path}").lock()


@needs_root
async def test_a_lock_that_somebody_planted_is_refused(tmp_path: Path) -> None:
    """In a sticky folder another's link makes no file, and their file is reported as theirs."""
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    lock = tmp_path / "sticky" / "s.lock"
    lock.symlink_to(tmp_path / "victim")
    os.lchown(lock, 65534, 65534)
    with pytest.raises(InvalidArgument):
        Endpoint(f"unix://{tmp_path}/sticky/s").lock()
    lock.unlink()
    lock.touch()
    os.chown(lock, 65534, 65534)
    with pytest.raises(PermissionDenied, match=r"s\.lock belongs to user 65534"):
        Endpoint(f"unix://{tmp_path}/sticky/s").lock()

    assert not (tmp_path / "victim").exists()
