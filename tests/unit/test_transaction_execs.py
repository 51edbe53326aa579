"""Which processes descend from an exec, and what a checkpoint does about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import Refused, Unavailable
from shim.model import CudaProcess, CudaState, EngineName, ExecProcesses
from shim.runsc.output import GuestProcess
from shim.transaction.exec_origin import ExecOrigins, by_parents
from shim.transaction.execs import ExecCheck, cuda_execs
from shim.transaction.journal import Operation
from tests.unit.fakes_guest import Cuda, FakeGuest
from tests.unit.fakes_target import Scene, sleeping

Make = Callable[..., Scene]
TRAIN = CudaProcess(pid=7, name="train")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of tasks in which an exec has run; the sentry reports `reported`."""
    with sleeping() as process:

        def scene(*processes: Cuda, **more: Any) -> Scene:
            guest = FakeGuest(list(processes) or [Cuda(7, "train", parent=1)])
            return Scene(tmp_path, process, guest, exec_ran=True, **more)

        yield scene


def row(pid: int, parent: int, group: int) -> GuestProcess:
    """Make a row of ps."""
    return GuestProcess(pid=pid, parent=parent, command=f"c{pid}", group=group)


# -- what parents and groups show ------------------------------------------------------------------


def test_what_parents_and_groups_show() -> None:
    """Init's group is init's own; a process without a parent is an exec's; the rest is unknown."""
    found = by_parents(
        [
            row(1, 0, 1),
            row(2, 1, 1),  # a child of init, in its group
            row(3, 2, 3),  # below that, in a group of its own
            row(4, 1, 4),  # a child of init by birth or by adoption
            row(5, 4, 4),
            row(8, 0, 8),  # a live session and what is below it
            row(9, 8, 8),
        ]
    )

    assert found == ExecOrigins(execs=frozenset({8, 9}), unknown=frozenset({4, 5}))


def test_without_groups_adopted_children_are_not_known() -> None:
    """An older runsc does not report them: then only a live session shows."""
    found = by_parents([row(1, 0, 0), row(2, 1, 0), row(8, 0, 0)])

    assert found == ExecOrigins(execs=frozenset({8}), unknown=frozenset({2}))


def test_no_processes() -> None:
    """A container that has just ended has none."""
    assert by_parents([]) == ExecOrigins()


# -- the check -------------------------------------------------------------------------------------


async def test_a_gpu_process_of_an_exec_is_refused(make: Make) -> None:
    """The sentry says so, and the refusal comes before anything is frozen."""
    scene = make()
    scene.runsc.origins = {7: True}

    error = await scene.error(exit=True)

    assert isinstance(error, Refused)
    assert "process 7 (train)" in error.message
    assert "--exec-processes drop" in error.remedy
    assert scene.guest.verbs() == []
    assert scene.as_before()


async def test_it_is_dropped_on_request(make: Make) -> None:
    """It is frozen and thawed with the others, and marked in the image."""
    scene = make(Cuda(7, "train", parent=1), Cuda(8, "serve", parent=1))
    scene.runsc.origins = {7: True, 8: False}

    made = await scene.checkpoint(exec_processes=ExecProcesses.DROP)

    assert [(one.pid, one.dropped) for one in made.processes] == [(7, True), (8, False)]
    assert made.engine == EngineName.PHASED
    assert any("without process 7 (train)" in text for text in made.warnings)
    assert scene.guest.states == [CudaState.RUNNING, CudaState.RUNNING]


async def test_runscs_own_engine_cannot_drop(make: Make) -> None:
    """It would thaw what its restore has killed."""
    scene = make()
    scene.runsc.origins = {7: True}

    error = await scene.error(engine=EngineName.BUILTIN, exec_processes=ExecProcesses.DROP)

    assert isinstance(error, Refused)
    assert "--engine phased" in error.remedy


async def test_what_is_not_known_is_warned_of(make: Make) -> None:
    """Somebody else traces the sandbox: the image is made, and says what may come of it."""
    scene = make()
    scene.runsc.origins = Unavailable("traced")

    made = await scene.checkpoint()

    assert any("process 7 (train) is not known" in text for text in made.warnings)
    assert not made.processes[0].dropped


async def test_what_is_not_known_is_refused_with_exit(make: Make) -> None:
    """The task would be gone when the restore fails."""
    scene = make()
    scene.runsc.origins = {}

    error = await scene.error(exit=True)

    assert isinstance(error, Refused)
    assert "leave out --exit" in error.remedy
    assert scene.as_before()


async def test_without_an_exec_no_process_is_asked(make: Make) -> None:
    """A task in which none was ever started is not paused for it."""
    scene = make()
    scene.exec_ran = False
    scene.runsc.origins = {7: True}

    made = await scene.checkpoint(exit=True)

    assert made.warnings == ()
    assert "trace" not in scene.events


async def test_an_older_runsc_keeps_them(make: Make) -> None:
    """Before 20250304 a restore ended none, so there is nothing to refuse."""
    scene = make(new=False)
    scene.runsc.origins = {7: True}

    made = await scene.checkpoint()

    assert "trace" not in scene.events
    assert made.warnings == ()


async def test_background_processes_are_named(make: Make) -> None:
    """Those without CUDA state end as well, in a task with a GPU or without."""
    scene = make(gpu=False)
    scene.guest.processes.clear()
    scene.guest.execs = (
        GuestProcess(pid=5, parent=1, command="server", group=5),
        GuestProcess(pid=6, parent=1, command="own", group=6),
    )
    scene.runsc.origins = {5: True, 6: False}

    made = await scene.checkpoint()

    (warning,) = made.warnings
    assert "5 (server)" in warning
    assert "own" not in warning


async def test_one_that_appears_in_the_freeze_is_judged_too(make: Make) -> None:
    """It was begun by exec after the look: it is refused, and everything thawed."""
    scene = make()
    scene.runsc.origins = {7: False, 9: True}
    scene.at_phase("freeze", scene.guest.appears(9))

    error = await scene.error(engine=EngineName.PHASED)

    assert isinstance(error, Refused)
    assert "process 9 " in error.message
    assert scene.as_before()


async def test_numbers_that_cannot_be_had(make: Make) -> None:
    """A container of a pod without a shell: which of its processes it is is not known."""
    scene = make()
    scene.runsc.origins = {7: True}
    scene.guest.numbered = False
    scene.journal.open(Operation.CHECKPOINT, "/i")
    received: list[str] = []
    check = ExecCheck(scene.target, ExecProcesses.REFUSE, received.append, exit=False)

    await check.look([TRAIN], paused=False)

    assert any("is not known" in text for text in received)


async def test_a_parked_task_is_judged_by_its_park(make: Make) -> None:
    """A stopped sentry does not report it any more, so it is recorded when it is parked."""
    scene = make()
    scene.runsc.origins = {7: True}
    scene.journal.open(Operation.PARK, "")
    execs, unclear = await cuda_execs(scene.target, [TRAIN])
    received: list[str] = []
    check = ExecCheck(scene.target, ExecProcesses.REFUSE, received.append, exit=False)

    assert (execs, unclear) == ((7,), ())
    with pytest.raises(Refused):
        check.take_parked([TRAIN], execs)


# -- pods ------------------------------------------------------------------------------------------


@pytest.fixture
def pod(make: Make) -> Scene:
    """Give a pod with a GPU process in each of two containers, where an exec started b's."""
    scene = make(others={"b": FakeGuest([Cuda(9, "serve", parent=1)])})
    scene.runsc.origins = {7: False, 9: True}
    return scene


async def test_a_gpu_process_of_an_exec_in_another_container_is_refused(pod: Scene) -> None:
    """The refusal names the process with its container, and no container is touched."""
    error = await pod.error(exit=True)

    assert isinstance(error, Refused)
    assert "process 9 (serve) of b" in error.message
    assert "process 7" not in error.message
    assert pod.guest.verbs() == pod.others["b"].verbs() == []
    assert pod.as_before()


async def test_it_is_dropped_in_its_own_container(pod: Scene) -> None:
    """The image marks that process alone, and both keep running."""
    made = await pod.checkpoint(exec_processes=ExecProcesses.DROP)

    assert [(one.container, one.pid, one.dropped) for one in made.processes] == [
        ("", 7, False),
        ("b", 9, True),
    ]
    assert pod.guest.states == [CudaState.RUNNING]
    assert pod.others["b"].states == [CudaState.RUNNING]


async def test_what_a_park_could_not_record_is_refused_with_exit(make: Make) -> None:
    """As of a task that runs: the task would be gone when the restore fails."""
    scene = make()
    scene.runsc.origins = {}
    scene.journal.open(Operation.PARK, "")

    execs, unclear = await cuda_execs(scene.target, [TRAIN])
    check = ExecCheck(scene.target, ExecProcesses.REFUSE, print, exit=True)

    assert (execs, unclear) == ((), (7,))
    with pytest.raises(Refused, match="the task is to be stopped"):
        check.take_parked([TRAIN], execs, unclear)
