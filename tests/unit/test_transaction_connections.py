"""TCP of a task, with or without a GPU: counted by the sentry, found by a program inside."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import DeadlineExceeded, Refused, Unavailable
from shim.host import peers
from shim.model import Connections
from shim.transaction import connections
from shim.transaction.connections import Connected, established
from tests.unit.fakes_guest import Cuda, FakeGuest
from tests.unit.fakes_target import Scene, sleeping

Make = Callable[..., Scene]
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue\n"
OPEN = "   0: 00000000:0000 00000000:0000 01 00000000:00000000\n"
LISTENS = "   1: 00000000:0000 00000000:0000 0A 00000000:00000000\n"
PEER = "0101A8C0:0050 01"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of tasks without a GPU; the sentry counts `open_` connections."""
    with sleeping() as process:

        def scene(*, open_: int = 1, **more: Any) -> Scene:
            made = Scene(tmp_path, process, FakeGuest(), **{"gpu": False, **more})
            made.runsc.tables = HEAD + OPEN * open_ + LISTENS
            return made

        yield scene


def test_only_established_connections_count() -> None:
    """Listeners, and those that are ending, are none that a copy would miss."""
    assert established(HEAD + LISTENS + OPEN + "\n   2: 0:0 0:0 06 0:0\n" + HEAD + OPEN) == 2
    assert established("") == 0


async def test_a_task_without_a_gpu_is_looked_at(make: Make) -> None:
    """Its connection is named, and refused where the caller says so."""
    scene = make()
    scene.guest.tcp = (PEER,)

    error = await scene.error(connections=Connections.REFUSE)
    made = await scene.checkpoint()

    assert isinstance(error, Refused)
    assert "192.168.1.1:80" in error.message
    assert made.warnings == ("a restored copy has lost its TCP connections: 192.168.1.1:80",)


async def test_without_connections_nothing_runs_inside(make: Make) -> None:
    """The sentry's count is enough."""
    scene = make(open_=0)

    assert (await scene.checkpoint(connections=Connections.REFUSE)).warnings == ()
    assert scene.guest.calls == []


async def test_connections_within_the_sandbox_are_saved(make: Make) -> None:
    """They are counted, and then seen to lead nowhere else."""
    scene = make(open_=2)
    scene.guest.tcp = ("0100007F:1F90 01",)

    assert (await scene.checkpoint(connections=Connections.REFUSE)).warnings == ()


async def test_an_image_without_a_shell(make: Make) -> None:
    """Whose they are cannot be seen: that is a warning, or a no."""
    scene = make()
    scene.guest.shell = False

    made = await scene.checkpoint()
    error = await scene.error(connections=Connections.REFUSE)

    assert ["1 TCP connections are open" in text for text in made.warnings] == [True]
    assert "the image has no shell" in made.warnings[0]
    assert isinstance(error, Refused)


async def test_a_paused_task(make: Make) -> None:
    """The sentry counts there too, and nothing runs inside."""
    scene = make(paused=True)

    made = await scene.checkpoint()

    assert ["while the task is paused" in text for text in made.warnings] == [True]
    assert scene.guest.calls == []
    scene.runsc.tables = HEAD + LISTENS
    assert (await connections.from_inside(scene.target, paused=True)) == Connected()


async def test_a_runsc_that_does_not_count(make: Make) -> None:
    """An older one is looked into at once."""
    scene = make()
    scene.runsc.tables = Unavailable("unknown method")
    scene.guest.tcp = (PEER,)

    made = await scene.checkpoint()

    assert ["192.168.1.1:80" in text for text in made.warnings] == [True]


async def test_a_gpu_task_is_looked_at_once(make: Make) -> None:
    """The look for CUDA processes has reported its connections."""
    scene = make(gpu=True)
    scene.guest.processes.append(Cuda(7))
    scene.guest.tcp = (PEER,)
    scene.runsc.tables = Unavailable("not asked")

    made = await scene.checkpoint()

    assert ["192.168.1.1:80" in text for text in made.warnings] == [True]


# -- which are lost ------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give a task under the newest runsc."""
    with sleeping() as process:
        yield Scene(tmp_path, process, FakeGuest())


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Scene]:
    """Give a task under 20240729."""
    (tmp_path / "old").mkdir()
    with sleeping() as process:
        yield Scene(tmp_path / "old", process, FakeGuest(), new=False)


CASES: tuple[tuple[Connected, str], ...] = (
    (Connected(), ""),
    (Connected(host=("/a.sock",)), "the save cuts connections to the host: /a.sock"),
    (Connected(tcp=("1.2.3.4:5",)), "a restored copy has lost its TCP connections: 1.2.3.4:5"),
    (
        Connected(tcp=tuple("abcdefghi")),
        "a restored copy has lost its TCP connections: a, b, c, d, e and 4 more",
    ),
    (Connected(unseen=("no shell",)), "whether connections are lost is not known: no shell"),
)


@pytest.mark.parametrize(("found", "warning"), CASES)
def test_connections_that_may_be_lost(scene: Scene, found: Connected, warning: str) -> None:
    """They are named in a warning that says which copy is without them."""
    said = connections.judge(scene.target, Connections.CUT, found)

    assert said == ([warning] if warning else [])


def test_connections_that_must_not_be_lost(scene: Scene) -> None:
    """The caller's policy is a no, with the way past; also where one cannot know."""
    both = Connected(host=("/a",), tcp=("1.2.3.4:5",))
    with pytest.raises(Refused, match="lost its connections: /a, 1") as caught:
        connections.judge(scene.target, Connections.REFUSE, both)
    assert "cut" in caught.value.remedy
    with pytest.raises(Refused, match="not known: no shell") as caught:
        connections.judge(scene.target, Connections.REFUSE, Connected(unseen=("no shell",)))
    assert "cut" in caught.value.remedy
    assert connections.judge(scene.target, Connections.REFUSE, Connected()) == []


def test_a_host_socket_that_the_old_runsc_cannot_save(old: Scene) -> None:
    """It would crash in the save: that is refused under either policy; other TCP is not."""
    with pytest.raises(Refused, match="cannot save a connected host socket"):
        connections.judge(old.target, Connections.CUT, Connected(host=("/a",)))
    assert connections.judge(old.target, Connections.CUT, Connected(tcp=("1.2.3.4:5",)))


def test_the_hosts_view_of_connections(tmp_path: Path) -> None:
    """A sandbox's socket to a host service is seen by the name of that service."""
    path = str(tmp_path / "service.sock")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as mine:
        server.bind(path)
        server.listen()
        mine.connect(path)
        with subprocess.Popen(["/bin/sleep", "1000"], stdin=mine.fileno()) as process:
            try:
                target = Scene(tmp_path, process, FakeGuest()).target
                found = asyncio.run(connections.from_host(target))
            finally:
                process.kill()

    assert found == Connected(host=(path,))


async def test_too_many_files_to_look_through(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That some could not be looked at is said; it is no reason to fail."""

    def late(_pid: int) -> list[peers.Connection]:
        message = "process 5 has more than 1000000 open files"
        raise DeadlineExceeded(message, remedy="later")

    monkeypatch.setattr(peers, "connections", late)

    found = await connections.from_host(scene.target)

    assert found == Connected(unseen=("process 5 has more than 1000000 open files",))
