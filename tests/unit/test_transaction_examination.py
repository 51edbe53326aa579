"""What an examination of a sandbox says: every refusal of a checkpoint, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import Refused
from shim.finding import Finding, Level
from shim.host import files
from shim.image.named import Fingerprint
from shim.model import CheckpointOptions, Connections, CudaMode, CudaState, EngineName
from shim.runsc.output import GuestProcess
from shim.transaction import preflight
from shim.transaction.examination import Examination
from tests.unit.fakes_guest import Cuda, FakeGuest
from tests.unit.fakes_target import Scene, parking, scenes

Make = Callable[..., Scene]
PARTS = Fingerprint(parts={"runsc": "release-1", "architecture": "x86_64", "CPU": ["sse"]})
# 192.168.1.1:80, as /proc/net/tcp writes it.
PEER = "0101A8C0:0050 01"
SESSION = GuestProcess(pid=40, parent=0, command="bash")
GPU_BYTES = 4096 << 20


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a factory of scenes with two CUDA processes, or those that are named."""
    with scenes(tmp_path) as scene:
        yield scene


async def examined(scene: Scene, **options: Any) -> tuple[Finding, ...]:
    """Examine it; nothing may change."""
    states, files = scene.guest.states, sorted(scene.folder.rglob("*"))
    found = await Examination(scene.target, CheckpointOptions(**options)).run(PARTS)
    assert scene.as_before()
    assert scene.guest.states == states
    assert sorted(scene.folder.rglob("*")) == files
    assert scene.events == []
    assert all(one.remedy for one in found if one.level is not Level.OK), found
    return found


def about(found: tuple[Finding, ...], subject: str) -> list[Finding]:
    """Return the findings about a subject."""
    return [one for one in found if one.subject == subject]


async def test_a_task_that_can_be_checkpointed(make: Make) -> None:
    """Each question has one answer, and every one is well."""
    found = await examined(make())

    assert {one.level for one in found} == {Level.OK}, found
    assert len({one.subject for one in found}) == len(found)
    texts = {one.subject: one.text for one in found}
    assert texts["state"] == "running"
    assert texts["CUDA processes"] == "7 (train) running, 8 (infer) running"
    assert texts["engine"] == "builtin"
    assert texts["connections"] == "none that leaves the sandbox"
    assert texts["restore elsewhere"].startswith("runsc release-1, x86_64 with 1 CPU features")
    assert texts["restore elsewhere"].endswith(f"fingerprint {PARTS.key}")


def without_tool(scene: Scene) -> None:
    """Take away cuda-checkpoint."""
    scene.guest.tool = False


def with_session(scene: Scene) -> None:
    """Leave an exec session open."""
    scene.guest.execs = (SESSION,)


def with_peer(scene: Scene) -> None:
    """Connect to another host."""
    scene.guest.tcp = (PEER,)


def with_gpu_memory(scene: Scene) -> None:
    """Use memory of a GPU, as nvidia-smi says."""
    smi = scene.folder / "smi"
    smi.write_text(f"#!/bin/sh\necho '{scene.sandbox.pid}, A, {GPU_BYTES >> 20}'\n")
    smi.chmod(0o755)
    scene.nvidia_smi = str(smi)


def as_it_is(scene: Scene) -> None:
    """Change nothing."""
    del scene


# What is wrong with the scene, the options of the checkpoint, and what the refusal is about.
FAULTS: dict[str, tuple[dict[str, Any], Callable[[Scene], None], dict[str, Any], str]] = {
    "no tool": ({}, without_tool, {}, "CUDA processes"),
    "old driver": ({"driver": "535.129.03"}, as_it_is, {}, "CUDA processes"),
    "no CUDA process": (
        {"others": {}},
        lambda scene: scene.guest.processes.clear(),
        {"cuda": CudaMode.REQUIRE},
        "CUDA processes",
    ),
    "exec session": ({"new": False}, with_session, {}, "exec processes"),
    "another runsc": (
        {},
        lambda scene: scene.runsc.fails.update(program=Refused("replaced", remedy="put it back")),
        {},
        "runsc",
    ),
    "missing engine": ({"new": False}, as_it_is, {"engine": EngineName.BUILTIN}, "engine"),
    "connection": ({}, with_peer, {"connections": Connections.REFUSE}, "connections"),
    "exited member": ({"others": {"b": FakeGuest()}, "ended": {"b"}}, as_it_is, {}, "containers"),
    "host network": (
        {"new": False},
        lambda scene: scene.runsc.flags.update(network="host"),
        {},
        "network",
    ),
    "no hook container": (
        {
            "annotations": {
                "io.cryo.hook.pre-freeze": "exec /bin/x",
                "io.kubernetes.cri.container-type": "sandbox",
            }
        },
        as_it_is,
        {},
        "hooks",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_a_checkpoint_refuses(make: Make, fault: str) -> None:
    """The refusal is a failure with its remedy; a real checkpoint fails with the same text."""
    more, plant, options, subject = FAULTS[fault]
    scene = make(**more)
    plant(scene)

    found = await examined(scene, **options)
    error = await scene.error(**options)

    failures = [one for one in found if one.level is Level.FAILURE]
    assert [one.subject for one in failures] == [subject]
    assert (failures[0].text, failures[0].remedy) == (error.message, error.remedy)


async def test_room_that_lacks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk and memory are both named, although the first ends a checkpoint."""
    scene = make()
    with_gpu_memory(scene)
    monkeypatch.setattr(files, "free_bytes", lambda _path: 1 << 20)
    monkeypatch.setattr(preflight, "available_bytes", lambda **_: 1 << 30)

    found = await examined(scene)

    assert {one.subject for one in found if one.level is Level.FAILURE} == {
        "image",
        "memory for a freeze",
    }
    assert "1024 MiB free" in about(found, "memory for a freeze")[0].text


async def test_all_that_is_wrong_at_once(make: Make) -> None:
    """Each refusal is reported, and not only the first."""
    scene = make(Cuda(7), Cuda(9, "nvml", state=None), new=False)
    with_session(scene)
    with_peer(scene)

    found = await examined(scene, connections=Connections.REFUSE, engine=EngineName.BUILTIN)

    failed = [one.subject for one in found if one.level is Level.FAILURE]
    assert failed == ["exec processes", "connections", "GPU devices", "engine"]


async def test_what_would_be_lost(make: Make) -> None:
    """What a checkpoint warns of is a warning, with what to do about it."""
    scene = make(Cuda(7), Cuda(9, "nvml", state=None), exec_ran=True)
    with_session(scene)
    with_peer(scene)
    scene.guest.execs += (GuestProcess(pid=41, parent=99, command="left"),)

    found = await examined(scene)

    texts = [f"{one.subject}: {one.text}" for one in found if one.level is Level.WARNING]
    assert any("connections: a restored copy has lost" in text for text in texts)
    assert any("GPU devices: processes hold a GPU device" in text for text in texts)
    assert any("exec processes: exec sessions are alive" in text for text in texts)
    assert "trace" not in scene.events


async def test_a_paused_task_stays_paused(make: Make) -> None:
    """Its CUDA processes cannot be looked at: that is a warning, as a checkpoint resumes it."""
    found = await examined(make(paused=True))

    assert [one.subject for one in found if one.level is not Level.OK] == ["CUDA processes"]
    assert about(found, "state")[0].text == "paused"


async def test_a_parked_task_stays_parked(make: Make) -> None:
    """Its processes are known from its journal, and nothing is run in it."""
    scene = make()
    await parking(scene).park()
    calls, journal = len(scene.guest.calls), scene.on_disk()

    found = await Examination(scene.target, CheckpointOptions()).run(PARTS)

    assert (len(scene.guest.calls), scene.on_disk()) == (calls, journal)
    assert about(found, "state")[0].text == "parked"
    assert scene.guest.states == [CudaState.CHECKPOINTED] * 2
    assert "7 (train), 8 (infer)" in about(found, "CUDA processes")[0].text


async def test_hooks_are_listed(make: Make) -> None:
    """Each with when it runs, where, and for how long at most."""
    found = await examined(make(annotations={"io.cryo.hook.pre-freeze": "exec /bin/x"}))

    (one,) = about(found, "hooks")
    assert one.text == "pre-freeze: exec /bin/x in a, at most 30 s"
