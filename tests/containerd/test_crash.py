"""containerd, a shim or the fork server is killed: what continues, and what is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from shim.simgpu.waiting import wait_until
from tests.containerd.cryo import COUNT, Cryo, comm

# ctr creates the fifos, and removes them with a task if it still exists.
_FIFOS = "/run/containerd/fifo/"


@pytest.fixture(autouse=True)
def nothing_of_ours_left(cryo: Cryo) -> Iterator[None]:
    """Check that nothing of the containers is left, except a fork server."""
    yield
    cryo.expect_nothing_new((_FIFOS, "shim.entry.shimbin.forkserver"))
    assert not [pid for pid in cryo.processes("shimbin.forkserver") if comm(pid) == "cryo-shim"]


def test_containerd_dies(cryo: Cryo) -> None:
    """Tasks survive containerd: the next one gets their states and exits."""
    with (
        cryo.container("sh", "-c", COUNT) as lives,
        cryo.container("sh", "-c", COUNT) as paused,
        cryo.container("sh", "-c", "until [ -e /end ]; do sleep 0.05; done; exit 7") as ends,
        cryo.container() as over,
    ):
        cryo.until_counts(paused)
        cryo.ctr("tasks", "pause", paused)
        cryo.kill_task(over)
        before = cryo.tasks()
        cryo.exec(ends, "sh", "-c", "(sleep 1; touch /end) >/dev/null 2>&1 </dev/null &")
        cryo.kill()
        wait_until(lambda: not alive(before[ends][0]), "the end of a task", 60)
        cryo.start()

        after = cryo.tasks()
        assert after[lives] == (before[lives][0], "RUNNING")
        assert after[paused] == (before[paused][0], "PAUSED")
        assert after[ends] == (before[ends][0], "STOPPED")
        assert after[over] == (before[over][0], "STOPPED")
        cryo.until_counts(lives)
        cryo.ctr("tasks", "resume", paused)
        cryo.until_counts(paused)
        assert "exit code 7" in cryo.ctr("tasks", "delete", ends).err
        assert "exit code 137" in cryo.ctr("tasks", "delete", over).err


def test_events_reach_the_next_containerd(cryo: Cryo) -> None:
    """A shim whose containerd was killed reports exits to the next one."""
    with cryo.container() as name:
        cryo.kill()
        cryo.start()
        with cryo.events() as events:
            cryo.kill_task(name)
            assert '"exit_status":137' in events.until("/tasks/exit")[0].body


def test_a_shim_dies(cryo: Cryo) -> None:
    """If a shim is killed, its container is too; containerd reports the exit; others continue."""
    with cryo.container("sh", "-c", COUNT) as other, cryo.container() as name:
        pid, shim = cryo.tasks()[name][0], cryo.shim_of(name)
        with cryo.events() as events:
            os.kill(shim, signal.SIGKILL)
            events.until("/tasks/exit")
            events.until("/tasks/delete")
        assert '"exit_status":137' in events.of("/tasks/exit")[0].body
        cryo.gone(pid, shim)
        assert cryo.status(name) == ""
        cryo.until_counts(other)


def test_a_shim_dies_without_containerd(cryo: Cryo) -> None:
    """The next containerd cleans up after a shim that died while none ran."""
    with cryo.container() as name:
        pid, shim = cryo.tasks()[name][0], cryo.shim_of(name)
        cryo.kill()
        os.kill(shim, signal.SIGKILL)
        cryo.start()
        cryo.gone(pid, shim)
        assert cryo.status(name) == ""


def test_the_fork_server_dies(cryo: Cryo) -> None:
    """Shims continue without the fork server; concurrent starts start exactly one other."""
    with cryo.container("sh", "-c", COUNT) as old:
        forkserver = cryo.forkserver()
        os.kill(forkserver, signal.SIGKILL)
        cryo.gone(forkserver)
        cryo.until_counts(old)
        names = [cryo.fresh("next") for _ in range(3)]
        with cryo.removing(*names):
            cryo.each(lambda name: cryo.begin(name, "sh", "-c", COUNT), names)
            # Exactly one, though all of them found none.
            assert cryo.forkserver() != forkserver
            cryo.each(cryo.until_counts, names)
        cryo.kill_task(old)
        assert "exit code 137" in cryo.ctr("tasks", "delete", old).err


def alive(pid: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
