"""Hearing of the kernel's kills: version 2 by its file, version 1 by a real one where there is."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.host.cgroup import Cgroup
from shim.host.oom import OomWatch
from tests.unit.helpers_cgroup import V2, Tree

_WAIT_S = 5.0
_V1 = Path("/sys/fs/cgroup/memory")


class Received:
    """Counts what a watch reports."""

    def __init__(self) -> None:
        self.count = 0
        self._updates = asyncio.Event()

    def __call__(self) -> None:
        """Hear it."""
        self.count += 1
        self._updates.set()

    async def next(self) -> None:
        """Wait until something is reported that was not waited for yet."""
        async with asyncio.timeout(_WAIT_S):
            await self._updates.wait()
        self._updates.clear()


def fds() -> set[str]:
    """List the open descriptors; that of the listing itself is always the same."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.fixture
def own(tmp_path: Path) -> Cgroup:
    """Give a cgroup of version 2 in which one process has been killed already."""
    tree = Tree(tmp_path, V2)
    tree.write("/a")
    return tree.cgroup("/a")


def kill_count(own: Cgroup, count: int) -> None:
    """Say what the kernel would."""
    assert own.kills is not None
    own.kills.write_text(f"low 0\noom {count}\noom_kill {count}\n", "ascii")


@asynccontextmanager
async def watching(own: Cgroup) -> AsyncIterator[tuple[OomWatch, Received]]:
    """Watch, and prove that no descriptor stays."""
    before = fds()
    received = Received()
    watch = OomWatch(own, received)
    try:
        yield watch, received
    finally:
        watch.close()
    watch.close()
    assert fds() == before


async def test_each_kill_is_reported_once(own: Cgroup) -> None:
    """A rise of the count is reported as it happens, and not again at the next look."""
    async with watching(own) as (watch, received):
        kill_count(own, 2)
        await received.next()
        watch.look()
        assert received.count == 1

        kill_count(own, 3)
        await received.next()
        assert received.count == 2


async def test_what_was_before_is_not_reported(own: Cgroup) -> None:
    """The count need not begin with nothing, and other events are none."""
    async with watching(own) as (watch, received):
        kill_count(own, 1)
        watch.look()
        await asyncio.sleep(0)
        assert received.count == 0


async def test_a_look_needs_no_signal(own: Cgroup) -> None:
    """Before an exit is published the count alone counts; the late signal adds nothing."""
    async with watching(own) as (watch, received):
        kill_count(own, 4)
        watch.look()
        assert received.count == 1


async def test_a_signal_comes_before_the_count(
    own: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 signals first and counts later: the watch looks again."""
    monkeypatch.setattr("shim.host.oom._LOOKS_S", (0.0, 0.05))
    async with watching(own) as (_, received):
        counts = iter((1, 2))
        monkeypatch.setattr("shim.host.cgroup.oom_kills", lambda _own: next(counts))
        kill_count(own, 1)
        await received.next()
        assert received.count == 1


async def test_nothing_is_reported_after_the_end(own: Cgroup) -> None:
    """A signal that arrived just before does not outlive the watch."""
    async with watching(own) as (watch, received):
        watch._woken()
        watch.close()
        kill_count(own, 9)
        await asyncio.sleep(0.05)
        assert received.count == 0


async def test_a_removed_cgroup_reports_nothing(own: Cgroup) -> None:
    """The files go away under the watch when runsc deletes the container."""
    async with watching(own) as (watch, received):
        assert own.kills is not None
        own.kills.unlink()
        await asyncio.sleep(0.05)
        watch.look()
        assert received.count == 0


@pytest.mark.parametrize("unified", (True, False))
async def test_a_cgroup_that_is_gone_cannot_be_watched(tmp_path: Path, *, unified: bool) -> None:
    """The refusal is one of ours, and leaves no descriptor."""
    folders = dict.fromkeys(("", "memory"), tmp_path / "gone")
    before = fds()

    with pytest.raises(NotFound, match="watch"):
        OomWatch(Cgroup(unified=unified, folders=folders), Received())

    assert fds() == before


@pytest.fixture
def real() -> Iterator[Cgroup]:
    """Give a new memory cgroup of version 1."""
    folder = _V1 / f"cryo-test-{os.getpid()}"
    if not (_V1 / "cgroup.event_control").exists():
        pytest.skip("no memory controller of cgroup version 1 here")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        yield Cgroup(unified=False, folders={"memory": folder})
    finally:
        folder.rmdir()


async def test_a_kill_in_a_real_cgroup_of_version_1(real: Cgroup) -> None:
    """A process that takes more than it may is killed, and the watch reports it without asking."""
    folder = real.folders["memory"]
    (folder / "memory.limit_in_bytes").write_text(str(16 << 20), "ascii")
    program = f"open('{folder}/cgroup.procs', 'w').write('0'); bytearray(b'x') * (100 << 20)"

    async with watching(real) as (_, received):
        child = await asyncio.create_subprocess_exec(sys.executable, "-ISc", program)
        try:
            async with asyncio.timeout(_WAIT_S):
                assert await child.wait() == -9
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        await received.next()
        assert received.count == 1
