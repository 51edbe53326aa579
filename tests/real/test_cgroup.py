"""Sandboxes with a cgroup of their own: what they use, and what happens when that is too much."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shim.errors import NotFound, ResourceExhausted
from shim.model import RestoreOptions, Stats
from shim.simgpu import tools
from shim.simgpu.waiting import wait_until
from tests import cgroups
from tests.builds import RunscBuild
from tests.faults.memory import Memory, limits
from tests.real.helpers_rig import WAIT_S, Output, Rig, machine_with, refused

pytestmark = pytest.mark.timeout(120)

_MIB = 1 << 20
_LIMIT_BYTES = 160 * _MIB
_PIDS = 600
# Takes 32 MiB with one signal, and with another all that there is.
_EATER = """
import signal
held = []

def eat(number, frame):
    held.append(bytearray(b"x") * (32 << 20))
    while number == signal.SIGUSR2:
        held.append(bytearray(b"x") * (4 << 20))

signal.signal(signal.SIGUSR1, eat)
signal.signal(signal.SIGUSR2, eat)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture(scope="module")
def machine(runsc: RunscBuild) -> Iterator[Rig]:
    """Give a machine whose runsc puts each sandbox into the cgroup that its spec names."""
    with machine_with(runsc, runsc__flags={"ignore-cgroups": "false"}) as rig:
        yield rig


@pytest.fixture
def rig(machine: Rig) -> Iterator[Rig]:
    """Give the machine; no task and no cgroup of the test may be left."""
    try:
        yield machine
    finally:
        machine.clear()
    assert machine.leftovers() == []
    assert cgroups.starting(_cgroup(machine, "")) == []


def _cgroup(rig: Rig, name: str) -> str:
    return f"{rig.sim.folder.name}-{name}"


def _eater(rig: Rig, name: str) -> None:
    """Start a container with limits that waits for a request to allocate memory."""
    output = Output(rig, name)
    bundle = rig.bundle(name, [tools.interpreter(), "-ISB", "-c", _EATER])
    with rig.edited(bundle) as spec:
        limits = {"memory": {"limit": _LIMIT_BYTES}, "pids": {"limit": _PIDS}}
        spec["linux"] |= {"cgroupsPath": f"/{_cgroup(rig, name)}", "resources": limits}
    rig.client.create(name, str(bundle), stdio=output.stdio)
    rig.client.start(name)
    output.until("ready")


def _until(rig: Rig, name: str, fits: Callable[[Stats], bool]) -> Stats:
    """Measure until the figures are as expected; return them."""
    found = [rig.client.stats(name)]

    def fit() -> bool:
        found[0] = rig.client.stats(name)
        return fits(found[0])

    wait_until(fit, f"the figures of {name}", WAIT_S)
    return found[0]


def _eat_all(rig: Rig, name: str) -> int:
    """Have a container eat until the kernel ends it; return its exit status."""
    rig.client.kill(name, signal.SIGUSR2)
    return rig.client.wait(name).status


def test_gpu_memory_that_the_limit_has_no_room_for(rig: Rig) -> None:
    """A checkpoint whose freeze would get the sandbox killed is refused; with room it is made."""
    bundle = rig.sim.bundle(
        "job",
        rig.settings(device_bytes=48 * _MIB),
        inject_tool=False,
        annotations={"io.cryo.park": "true"},
    )
    with rig.edited(bundle) as spec:
        spec["linux"]["cgroupsPath"] = f"/{_cgroup(rig, 'job')}"
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    rig.sim.until_ready(rig.guest, "job")
    [memory] = [Memory(path) for path in cgroups.starting(_cgroup(rig, "job")) if limits(path)]

    memory.leave(24 * _MIB)

    error = refused(ResourceExhausted, lambda: rig.checkpoint("job"))
    assert "memory limit" in error.message
    assert "memory limit" in refused(ResourceExhausted, lambda: rig.client.pause("job")).message
    assert rig.fine("job")
    memory.feed()
    rig.checkpoint("job")
    assert rig.fine("job")


def test_clones_have_limits_of_their_own(rig: Rig) -> None:
    """Each is in a cgroup of its own with the limits of the image, so one cannot end another."""
    _eater(rig, "job")
    image = rig.checkpoint("job").image_path
    names = ("c-1", "c-2")

    found = rig.client.clone({name: RestoreOptions(image_path=image) for name in names})

    assert all(one.restored for one in found)
    limits_of = {name: rig.client.stats(name).memory_limit_bytes for name in ("job", *names)}
    assert limits_of == dict.fromkeys(("job", *names), _LIMIT_BYTES)
    assert _eat_all(rig, "c-1") in _killed(rig)
    assert rig.client.state("job").exit is rig.client.state("c-2").exit is None


def _topics(rig: Rig, name: str) -> list[str]:
    """List the events of a task in their order."""
    text = rig.sim.sidecar_log.read_text("utf-8")
    own = re.compile(rf" task={re.escape(name)}(?: |$)")
    return [
        found.group(1)
        for line in text.splitlines()
        if own.search(line) and (found := re.search(r'msg="event /tasks/([a-z-]+)"', line))
    ]


def _killed(rig: Rig) -> set[int]:
    """Return how a container may exit after the kernel kills one of its processes.

    That is the sentry or one with the guest's code, as the kernel likes, and of the latter's end
    the old runsc knows no signal.
    """
    return {137} if rig.build.name == "new" else {1, 137}


def test_figures_are_those_of_the_cgroup(rig: Rig) -> None:
    """Limits are as the spec has them, memory and processor time grow with what is done."""
    _eater(rig, "figures")
    first = rig.client.stats("figures")

    rig.client.kill("figures", signal.SIGUSR1)
    after = _until(rig, "figures", lambda now: now.memory_bytes > first.memory_bytes + 30 * _MIB)

    assert (after.memory_limit_bytes, after.pids_limit) == (_LIMIT_BYTES, _PIDS)
    assert after.cpu_usage_ns > first.cpu_usage_ns > 0
    assert 0 < after.memory_bytes <= after.memory_max_bytes < _LIMIT_BYTES
    assert 0 < after.memory_rss_bytes < after.memory_bytes
    # gVisor keeps the guest's memory in a file in memory.
    assert after.memory_cache_bytes - after.memory_inactive_file_bytes > 30 * _MIB
    assert after.pids > 1
    assert after.oom_kills == 0


def test_figures_of_a_paused_task_and_of_an_ended_one(rig: Rig) -> None:
    """A paused task is measured at once; one that has exited is not there."""
    _eater(rig, "paused")
    rig.client.pause("paused")
    began = time.monotonic()

    assert rig.client.stats("paused").memory_bytes > 0
    assert time.monotonic() - began < 1

    rig.client.resume("paused")
    rig.end("paused")
    rig.client.create("ended", str(rig.bundle("ended", ["/bin/true"])))
    rig.client.start("ended")
    rig.client.wait("ended")
    refused(NotFound, lambda: rig.client.stats("ended"))


def test_out_of_memory_is_reported_before_the_exit(rig: Rig) -> None:
    """The kernel ends a container that eats too much: one event says so, and then the exit."""
    _eater(rig, "greedy")

    assert _eat_all(rig, "greedy") in _killed(rig)

    assert _topics(rig, "greedy") == ["create", "start", "oom", "exit"]


def test_out_of_memory_is_reported_after_a_restore(rig: Rig) -> None:
    """A restored task has the cgroup of its spec, its figures, and is watched as any other."""
    _eater(rig, "saved")
    made = rig.checkpoint("saved", exit=True)
    rig.client.delete("saved")

    rig.restore("back", made.image_path)

    assert rig.client.stats("back").memory_limit_bytes == _LIMIT_BYTES
    assert _eat_all(rig, "back") in _killed(rig)
    assert _topics(rig, "back")[-2:] == ["oom", "exit"]
    assert "oom" not in _topics(rig, "saved")


def test_out_of_memory_is_reported_by_the_next_sidecar(rig: Rig) -> None:
    """A sidecar that takes a task over watches it too."""
    _eater(rig, "kept")
    rig.crash()

    assert _eat_all(rig, "kept") in _killed(rig)

    assert _topics(rig, "kept")[-2:] == ["oom", "exit"]


def test_a_killed_task_had_memory_enough(rig: Rig) -> None:
    """Exit status 137 alone says nothing of memory."""
    _eater(rig, "plain")
    rig.client.kill("plain", signal.SIGKILL)
    assert rig.client.wait("plain").status == 137
    assert "oom" not in _topics(rig, "plain")


def test_watching_leaves_no_descriptor_behind(rig: Rig) -> None:
    """A sidecar has as many files open after a watched task as before it."""

    def open_files() -> int:
        return len(list(Path(f"/proc/{rig.sim.sidecar_pid}/fd").iterdir()))

    def life(name: str) -> None:
        _eater(rig, name)
        rig.end(name)

    life("warm")
    before = open_files()
    life("one")
    life("two")
    wait_until(lambda: open_files() <= before, "no more open files than before", WAIT_S)
