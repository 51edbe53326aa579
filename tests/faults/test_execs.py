"""Execs are deleted while their container exits: no exit is lost, and every call returns."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from shim.simgpu.simulation import wait_until
from shim.state import TaskState
from tests.faults import trap
from tests.faults.cases import NEW_PHASED, OLD_PHASED, on
from tests.faults.judge import COPY, TASK
from tests.faults.rig import Rig
from tests.faults.trap import Deed, Trap

pytestmark = pytest.mark.timeout(600)
_EXECS = ("e1", "e2", "e3")
_SLEEP = {"args": ["/bin/sleep", "1000"], "cwd": "/"}
_END_S = 60.0


@on(NEW_PHASED, OLD_PHASED)
@pytest.mark.parametrize("point", ("event.exit:before", "record.save:before"))
def test_execs_are_deleted_while_the_container_dies(rig: Rig, point: str) -> None:
    """Deletions during the exit return, and the exit status is published."""
    rig.start_copy()
    for name in _EXECS:
        rig.client.exec(COPY, name, _SLEEP)
        rig.client.start(COPY, name)
    trap.put(rig.sim.trap_file, Trap(deed=Deed.HALT, point=point))
    waiting = rig.run(lambda: _wait(rig))
    killing = rig.run(lambda: rig.client.kill(COPY, signal.SIGKILL))
    rig.until_halted()

    deleting = [rig.run(partial(_delete, rig, name)) for name in _EXECS]
    rig.resume()

    for future in (killing, waiting, *deleting):
        future.result(_END_S)
    trap.remove(rig.sim.trap_file)
    wait_until(lambda: rig.state(COPY) is TaskState.STOPPED, "its end", _END_S)
    assert rig.client.state(COPY).exit is not None
    rig.remove(COPY)
    rig.assert_clean(TASK)


def _wait(rig: Rig) -> None:
    assert rig.client.wait(COPY).status == 128 + signal.SIGKILL


def _delete(rig: Rig, name: str) -> None:
    """Delete an exec as soon as it has exited, as containerd does."""
    rig.client.wait(COPY, name)
    rig.client.delete(COPY, name)
