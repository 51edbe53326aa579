"""Each check of the preflight alone: what is refused, what is warned of, what is let through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shim.cuda.detect import Holder
from shim.errors import Refused, ResourceExhausted
from shim.host import cgroup, files, procs
from shim.host.cgroup import Cgroup
from shim.image import manifest as manifests
from shim.oci import document
from shim.runsc.container_flags import ContainerFlags
from shim.runsc.output import GuestProcess
from shim.transaction import preflight
from tests.unit.fakes_guest import FakeGuest
from tests.unit.fakes_target import SPEC, Scene, sleeping


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


def rows(*numbers: tuple[int, int]) -> list[GuestProcess]:
    """Make processes of (pid, parent)."""
    return [GuestProcess(pid=pid, parent=parent, command=f"c{pid}") for pid, parent in numbers]


def test_who_came_in_by_exec() -> None:
    """Processes without a parent, except the first; orphans are adopted by that one."""
    found = preflight.exec_processes(rows((1, 0), (5, 1), (9, 0), (10, 9), (12, 0)))

    assert [row.pid for row in found] == [9, 12]
    assert preflight.exec_processes([]) == []


def test_the_first_process_need_not_be_one() -> None:
    """In a pod the container's first process has another number."""
    assert preflight.exec_processes(rows((20, 0), (21, 20))) == []


def test_only_some_exec_sessions_are_shown(old: Scene) -> None:
    """A message stays readable."""
    with pytest.raises(Refused) as caught:
        preflight.check_execs(old.target, rows((1, 0), *((pid, 0) for pid in range(2, 50))))
    assert "6 (c6)" in caught.value.message
    assert "7 (c7)" not in caught.value.message


def test_room_on_the_disk(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is what is resident, what the GPU holds, and some more."""
    monkeypatch.setattr(files, "free_bytes", lambda _path: 1 << 40)
    monkeypatch.setattr(procs, "resident_bytes", lambda _pid: 1 << 30)

    disk = preflight.measure_disk(scene.target, scene.images / "not" / "there")
    plain = preflight.expected_bytes(disk, 0)
    more = preflight.expected_bytes(disk, 5 << 30)

    assert plain == (1 << 30) + (16 << 20)
    assert more == plain + (5 << 30)


def test_the_disk_of_the_image_is_asked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is yet to be made lies where its nearest parent does."""
    asked: list[Path] = []

    def free(path: Path) -> int:
        asked.append(path)
        return 1 << 40

    monkeypatch.setattr(files, "free_bytes", free)

    preflight.measure_disk(scene.target, scene.folder / "a" / "b" / "c")

    assert asked == [scene.folder]


def test_gpu_memory_goes_through_host_memory(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A freeze that would bring the kernel's killer is refused."""
    monkeypatch.setattr(preflight, "available_bytes", lambda: 1 << 30)

    preflight.check_memory(scene.target, 1 << 30)
    with pytest.raises(ResourceExhausted, match="1025 MiB of GPU memory to a host with 1024 MiB"):
        preflight.check_memory(scene.target, (1 << 30) + (1 << 20))


def test_gpu_memory_becomes_memory_of_the_sandbox(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A freeze that its limit does not leave room for is refused, for it would be killed."""
    own = Cgroup(unified=True, folders={})
    monkeypatch.setattr(cgroup, "find", lambda _pid: own)
    monkeypatch.setattr(cgroup, "free_bytes", lambda found: (1 << 20) if found is own else None)

    preflight.check_memory(scene.target, 1 << 20)
    with pytest.raises(ResourceExhausted, match="limit leaves 1 MiB"):
        preflight.check_memory(scene.target, 2 << 20)


def test_this_host_has_memory() -> None:
    """The kernel's own estimate is read."""
    assert preflight.available_bytes() > 1 << 20


def test_containers_that_number_their_processes_together(scene: Scene) -> None:
    """Two with a GPU in one pid namespace would each find the processes of both."""
    shared = {**SPEC, "linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}}
    alone, joined = scene.target, replace(scene.target, spec=document.parse(shared, Path("/b")))

    preflight.check_namespaces([joined])
    preflight.check_namespaces([alone, alone])
    with pytest.raises(Refused, match="shares its pid namespace") as caught:
        preflight.check_namespaces([alone, joined])
    assert "shareProcessNamespace" in caught.value.remedy


def test_the_hosts_network(scene: Scene, old: Scene) -> None:
    """A runsc that refuses it in its save alone is not let come so far."""
    for one in (scene, old):
        preflight.check_network(one.target)
        one.runsc.flags = {"network": "host"}

    preflight.check_network(scene.target)
    with pytest.raises(Refused, match="the host's network") as caught:
        preflight.check_network(old.target)
    assert "hostNetwork" in caught.value.remedy
    old.runsc.flags = {}
    with pytest.raises(Refused, match="the host's network"):
        preflight.check_network(replace(old.target, own_flags=ContainerFlags(network="host")))


def test_no_holders_no_warning(scene: Scene, old: Scene) -> None:
    """Nothing is said of nothing."""
    assert preflight.check_non_cuda_holders(scene.target, ()) == []
    assert preflight.check_non_cuda_holders(old.target, ()) == []
    with pytest.raises(Refused, match=r"5 \(nvml\)"):
        preflight.check_non_cuda_holders(old.target, (Holder(pid=5, name="nvml"),))


def test_a_manifest_that_could_not_be_read_refuses_the_checkpoint(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Specs that are too large for a manifest are refused before anything is frozen."""
    preflight.check_manifest(scene.target)

    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", (1 << 20) + 10)
    with pytest.raises(Refused, match=r"config\.json") as caught:
        preflight.check_manifest(scene.target)
    assert caught.value.remedy


def test_a_terminal_of_a_member_refuses_the_checkpoint(scene: Scene) -> None:
    """Only the terminal of the sandbox's own container could be restored."""
    data = {**SPEC, "process": {**SPEC["process"], "terminal": True}}
    with_terminal = document.parse(data, scene.target.bundle, restoring=True)
    own = replace(scene.target, spec=with_terminal)
    preflight.check_terminals(replace(own, members=(scene.target,)))

    with pytest.raises(Refused, match="the terminal of shell") as caught:
        preflight.check_terminals(replace(scene.target, members=(replace(own, name="shell"),)))
    assert "tty: false" in caught.value.remedy
