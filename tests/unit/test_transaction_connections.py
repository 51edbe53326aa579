"""TCP of a task, with or without a GPU: how many the sentry tells, whose a program inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import Refused, Unavailable
from shim.model import Connections
from shim.transaction import connections
from shim.transaction.connections import Tcp, established
from tests.unit.fakes_guest import Cuda, FakeGuest
from tests.unit.fakes_target import Scene, sleeping

Make = Callable[..., Scene]
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue\n"
OPEN = "   0: 00000000:0000 00000000:0000 01 00000000:00000000\n"
LISTENS = "   1: 00000000:0000 00000000:0000 0A 00000000:00000000\n"
PEER = "0101A8C0:0050 01"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Give a maker of tasks without a GPU; `open_` is how many connections the sentry counts."""
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
    assert (await connections.look(scene.target, paused=True)) == Tcp()


async def test_a_runsc_that_does_not_count(make: Make) -> None:
    """An older one is looked into at once."""
    scene = make()
    scene.runsc.tables = Unavailable("unknown method")
    scene.guest.tcp = (PEER,)

    made = await scene.checkpoint()

    assert ["192.168.1.1:80" in text for text in made.warnings] == [True]


async def test_a_gpu_task_is_looked_at_once(make: Make) -> None:
    """The look for CUDA processes has told of its connections."""
    scene = make(gpu=True)
    scene.guest.processes.append(Cuda(7))
    scene.guest.tcp = (PEER,)
    scene.runsc.tables = Unavailable("not asked")

    made = await scene.checkpoint()

    assert ["192.168.1.1:80" in text for text in made.warnings] == [True]
