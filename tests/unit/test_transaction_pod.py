"""Several containers in one transaction: all are frozen and saved, or all run as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import CudaError, IllegalState, RunscError
from shim.image.verify import read_manifest
from shim.model import CudaState, EngineName
from shim.transaction.recover import recover
from tests.unit.fakes_guest import Cuda, FakeGuest, Fault, failed
from tests.unit.fakes_target import Scene, sleeping

RUNNING, LOCKED, FROZEN = CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give a sandbox of three containers whose processes have the same numbers."""
    with sleeping() as process:
        others = {name: FakeGuest([Cuda(7, name)]) for name in ("b", "c")}
        yield Scene(tmp_path, process, FakeGuest([Cuda(7, "a"), Cuda(8, "a")]), others=others)


async def test_the_image_names_its_members(scene: Scene) -> None:
    """Each has its own spec, names and processes in the manifest; the sandbox's stay on top."""
    result = await scene.checkpoint(engine=EngineName.PHASED)

    found = read_manifest(Path(result.image_path))
    assert (found.task, [p.pid for p in found.processes]) == ("a", [7, 8])
    assert [(m.task, m.name, [p.pid for p in m.processes]) for m in found.members] == [
        ("b", "b by name", [7]),
        ("c", "c by name", [7]),
    ]
    assert [m.bundle for m in found.members] == [str(scene.folder / name) for name in ("b", "c")]
    assert all(m.spec == found.spec and m.spec_digest == found.spec_digest for m in found.members)
    assert [(p.container, p.pid) for p in result.processes] == [
        ("", 7),
        ("", 8),
        ("b", 7),
        ("c", 7),
    ]
    assert result.members == ("b", "c")
    assert scene.guest.states == [RUNNING, RUNNING]
    assert [guest.states for guest in scene.others.values()] == [[RUNNING], [RUNNING]]
    assert scene.on_disk() is None


async def test_a_failure_in_the_last_container_undoes_all(scene: Scene) -> None:
    """Every process of every container is back, whichever had been frozen already."""
    scene.others["c"].faults["checkpoint", 7] = Fault(answer=failed("launch failure"))

    error = await scene.error(engine=EngineName.PHASED)

    assert isinstance(error, CudaError)
    assert "process 7 (c) of c" in error.message
    assert scene.guest.verbs().count("checkpoint") == 2
    assert scene.as_before()


async def test_the_journal_distinguishes_containers(scene: Scene) -> None:
    """Processes of the same number in several containers are several entries."""
    seen: list[dict[str, str]] = []

    def look() -> None:
        entry = scene.on_disk()
        assert entry is not None
        seen.append({name: process.state for name, process in entry.processes.items()})

    scene.at_phase("save", look)
    await scene.checkpoint(engine=EngineName.PHASED)

    assert [set(entry) for entry in seen] == [{"7", "8", "b/7", "c/7"}]


async def test_a_recovery_thaws_every_container(scene: Scene) -> None:
    """The next owner finds each process of the journal where it is."""
    scene.runsc.fails["checkpoint"] = RunscError("checkpoint", 128, "no")
    scene.others["b"].faults["restore", 7] = Fault(answer=failed("no"), times=9)
    assert isinstance(await scene.error(engine=EngineName.PHASED), CudaError)
    entry = scene.on_disk()
    assert entry is not None
    assert scene.others["b"].states == [FROZEN]
    scene.others["b"].faults.clear()
    scene.others["c"].processes[0].state = LOCKED

    await recover(scene.target, entry, lambda _: None)

    assert scene.as_before()


async def test_exit_stops_the_members_first(scene: Scene) -> None:
    """With the sandbox's own task the sandbox goes; one that has exited is not stopped again."""
    scene.at_phase("stop", lambda: scene.ended.add("b"))

    await scene.checkpoint(engine=EngineName.PHASED, exit=True)

    assert [event for event in scene.events if event.startswith("stop")] == ["stop c", "stop"]


@pytest.mark.parametrize("phase", ("preflight", "freeze", "save"))
async def test_one_that_ends_meanwhile(scene: Scene, phase: str) -> None:
    """Before the save or in it: there is no image of which no process knows whether it is in it."""
    scene.at_phase(phase, lambda: scene.ended.add("b"))

    error = await scene.error(engine=EngineName.PHASED)

    assert isinstance(error, IllegalState)
    assert "b exited during the checkpoint" in error.message
    assert scene.as_before()


async def test_each_container_is_asked_for_its_exec_processes(scene: Scene) -> None:
    """What came in by exec counts in whichever container it is."""
    scene.others["c"].execs = ()
    scene.others["c"].processes.append(Cuda(99, "sh", state=None, parent=0))

    result = await scene.checkpoint(engine=EngineName.PHASED)

    assert any("99 (sh)" in text for text in result.warnings)
