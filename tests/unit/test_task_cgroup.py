"""Tasks with a cgroup of their own: their statistics, and when an OOM kill is reported."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.host.cgroup import Cgroup
from tests.unit.fakes_tasks import Owner, owning
from tests.unit.helpers_cgroup import V2, Tree

_FIND = "shim.host.cgroup.find"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    """Give every sandbox the same cgroup of version 2."""
    tree = Tree(tmp_path / "tree", V2)
    tree.write("/a")
    found = tree.cgroup("/a")
    monkeypatch.setattr(_FIND, lambda _pid: found)
    return found


def kill_count(own: Cgroup, count: int) -> None:
    """Say that the kernel has killed so many."""
    assert own.kills is not None
    own.kills.write_text(f"oom_kill {count}\n", "ascii")


async def ended(owner: Owner) -> list[str]:
    """Wait for the exit of the task, and return what was published."""
    async with asyncio.timeout(60):
        await owner.tasks.wait(owner.ref())
    return owner.topics


async def test_a_lack_of_memory_is_reported_before_the_exit(
    tmp_path: Path, own: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is read once more at the end, for the signal may come late, or never."""
    monkeypatch.setattr("shim.host.oom._LOOKS_S", ())
    async with owning(tmp_path) as owner:
        pid = await owner.running()
        kill_count(own, 2)
        owner.kill_sandbox(pid)

        assert (await ended(owner))[-2:] == ["oom", "exit"]


async def test_what_somebody_else_killed_is_no_lack_of_memory(tmp_path: Path, own: Cgroup) -> None:
    """Kills of before the sandbox are not its own, and a signal is none."""
    async with owning(tmp_path) as owner:
        pid = await owner.running()
        owner.kill_sandbox(pid)

        assert "oom" not in await ended(owner)


async def test_an_end_that_cannot_be_looked_at_is_reported(
    tmp_path: Path, own: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter for the exit gets it, whatever becomes of the cgroup."""

    def fail(_own: Cgroup) -> int:
        raise NotFound("gone")

    async with owning(tmp_path) as owner:
        pid = await owner.running()
        monkeypatch.setattr("shim.host.cgroup.oom_kills", fail)
        owner.kill_sandbox(pid)

        assert (await ended(owner))[-1] == "exit"


async def test_a_refused_watch_refuses_no_task(
    tmp_path: Path, own: Cgroup, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says that its OOM events are not published."""
    assert own.kills is not None
    own.kills.unlink()
    async with owning(tmp_path) as owner:
        with caplog.at_level(logging.WARNING):
            pid = await owner.running()
        owner.kill_sandbox(pid)
        await ended(owner)

    assert "its OOM events are not published" in caplog.text


async def test_figures_come_from_the_cgroup(tmp_path: Path, own: Cgroup) -> None:
    """Where there is a cgroup, runsc is not asked."""
    async with owning(tmp_path) as owner:
        await owner.running()

        assert (await owner.tasks.stats(owner.ref())).memory_bytes == 1000
        assert "events" not in owner.commands


async def test_figures_of_who_ends_meanwhile_are_not_there(
    tmp_path: Path, own: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end and our knowledge of it, the files are gone and so is the sandbox."""
    async with owning(tmp_path) as owner:
        await owner.running()
        monkeypatch.setattr(_FIND, lambda _pid: None)
        owner.script.on("events", "exit 1")
        monkeypatch.setattr("shim.host.procs.is_alive", lambda _pid, _start: False)

        with pytest.raises(NotFound, match="has exited"):
            await owner.tasks.stats(owner.ref())
