"""A transaction: undone before its commit, done after it, whatever is cancelled or late."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shim.errors import Busy, CryoError, CudaError, DeadlineExceeded, ResourceExhausted
from shim.model import Phase, Progress
from shim.transaction.journal import Journal, Operation
from shim.transaction.transaction import Transaction


class Scene:
    """A transaction whose undo steps note that they were done."""

    def __init__(self, folder: Path, *, deadline_s: float = 60) -> None:
        self.journal = Journal(folder)
        self.journal.open(Operation.CHECKPOINT, "/image")
        self.undone: list[str] = []
        self.updates: list[Progress] = []
        self.transaction = Transaction(
            "checkpoint of a", self.journal, self.updates.append, deadline_s=deadline_s
        )
        self.begun, self.may_go_on = asyncio.Event(), asyncio.Event()
        for name in ("first", "second"):
            self.undo(name)

    def undo(self, name: str, *, deadline_s: float = 60, fails: Exception | None = None) -> None:
        """Add an undo step."""

        async def work() -> None:
            await asyncio.sleep(0)
            self.undone.append(name)
            if fails is not None:
                raise fails

        self.transaction.undo_with(name, work, deadline_s=deadline_s)

    async def forward(self, *, commits: bool, fails: Exception | None = None) -> str:
        """Do the work: wait in a phase for the word to go on, after the commit or before it."""
        if commits:
            await self.transaction.commit(self.named(), made="the image is complete")
        with self.transaction.step(Phase.STOP if commits else Phase.SAVE):
            self.begun.set()
            await self.may_go_on.wait()
            if fails is not None:
                raise fails
        return "result"

    async def named(self) -> None:
        """Stand for the step that cannot be undone."""
        await asyncio.sleep(0)


async def test_work_that_ends_well(tmp_path: Path) -> None:
    """Its result is returned, its phases are timed, and nothing is undone."""
    scene = Scene(tmp_path)
    scene.may_go_on.set()

    assert await scene.transaction.run(scene.forward(commits=True)) == "result"
    assert scene.undone == []
    assert set(scene.transaction.timings_s) == {"stop"}
    assert scene.journal.entry.committed


async def test_a_failure_undoes_the_last_step_first(tmp_path: Path) -> None:
    """The error is that of the work; the way back is gone from the end to the beginning."""
    scene = Scene(tmp_path)
    scene.may_go_on.set()

    with pytest.raises(Busy, match="in use"):
        await scene.transaction.run(scene.forward(commits=False, fails=Busy("in use")))
    assert scene.undone == ["second", "first"]
    assert scene.updates[-1].phase is Phase.ROLLBACK


@pytest.mark.parametrize("again", (0, 3))
async def test_a_caller_who_leaves_before_the_commit(tmp_path: Path, again: int) -> None:
    """Everything is undone to its end, and then the caller is cancelled."""
    scene = Scene(tmp_path)
    caller = asyncio.create_task(scene.transaction.run(scene.forward(commits=False)))
    await scene.begun.wait()
    for _ in range(1 + again):
        caller.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert scene.undone == ["second", "first"]


async def test_the_deadline_before_the_commit(tmp_path: Path) -> None:
    """The error names the phase."""
    scene = Scene(tmp_path, deadline_s=0.1)

    with pytest.raises(DeadlineExceeded, match=r"checkpoint of a did not end in 0\.1 s: .* save"):
        await scene.transaction.run(scene.forward(commits=False))
    assert scene.undone == ["second", "first"]


async def test_a_caller_who_leaves_after_the_commit(tmp_path: Path) -> None:
    """The rest is done, and the caller gets the result: it was not cancelled, and not undone."""
    scene = Scene(tmp_path)
    caller = asyncio.create_task(scene.transaction.run(scene.forward(commits=True)))
    await scene.begun.wait()
    caller.cancel()
    await asyncio.sleep(0)
    scene.may_go_on.set()

    assert await caller == "result"
    assert scene.undone == []


async def test_a_caller_who_leaves_while_it_commits(tmp_path: Path) -> None:
    """A commit that has begun is seen to its end, and is then the point of no return."""
    scene = Scene(tmp_path)
    naming, may_name = asyncio.Event(), asyncio.Event()

    async def name() -> None:
        naming.set()
        await may_name.wait()

    scene.named = name  # type: ignore[method-assign]
    scene.may_go_on.set()
    caller = asyncio.create_task(scene.transaction.run(scene.forward(commits=True)))
    await naming.wait()
    caller.cancel()
    await asyncio.sleep(0)
    may_name.set()

    assert await caller == "result"


async def test_a_commit_that_fails_is_undone(tmp_path: Path) -> None:
    """Nothing was made, so all is as before; a caller who left meanwhile changes nothing."""
    scene = Scene(tmp_path)
    naming, may_fail = asyncio.Event(), asyncio.Event()

    async def name() -> None:
        naming.set()
        await may_fail.wait()
        raise Busy("the name is taken")

    scene.named = name  # type: ignore[method-assign]
    caller = asyncio.create_task(scene.transaction.run(scene.forward(commits=True)))
    await naming.wait()
    caller.cancel()
    await asyncio.sleep(0)
    may_fail.set()

    with pytest.raises(Busy, match="the name is taken"):
        await caller
    assert scene.undone == ["second", "first"]
    assert not scene.journal.entry.committed


async def test_the_deadline_after_the_commit(tmp_path: Path) -> None:
    """What is committed is done to its end, however late."""
    scene = Scene(tmp_path, deadline_s=1.0)
    caller = asyncio.create_task(scene.transaction.run(scene.forward(commits=True)))
    await scene.begun.wait()
    await asyncio.sleep(scene.transaction.left_s + 0.05)
    scene.may_go_on.set()

    assert await caller == "result"
    assert scene.undone == []


@pytest.mark.parametrize(
    ("error", "kind"),
    (
        (Busy("in use"), CryoError),
        (DeadlineExceeded("in use"), DeadlineExceeded),
        (ResourceExhausted("in use"), ResourceExhausted),
        (ValueError("in use"), CryoError),
    ),
)
async def test_a_failure_after_the_commit(
    tmp_path: Path, error: Exception, kind: type[CryoError]
) -> None:
    """It is reported together with what was made, and nothing is undone."""
    scene = Scene(tmp_path)
    scene.may_go_on.set()

    with pytest.raises(kind, match=r"^the image is complete, but in use$"):
        await scene.transaction.run(scene.forward(commits=True, fails=error))
    assert scene.undone == []


@pytest.mark.parametrize("fault", (Busy("stuck"), ValueError("stuck")))
async def test_an_undo_step_that_fails(tmp_path: Path, fault: Exception) -> None:
    """The others are done all the same, and the error names both failures."""
    scene = Scene(tmp_path)
    scene.undo("third", fails=fault)
    scene.may_go_on.set()

    with pytest.raises(CudaError, match=r"in use; and then the rollback failed: .*stuck"):
        await scene.transaction.run(scene.forward(commits=False, fails=Busy("in use")))
    assert scene.undone == ["third", "second", "first"]
    assert scene.transaction.failed is not None


async def test_an_undo_step_has_a_deadline(tmp_path: Path) -> None:
    """A step that does not end is broken off; what held it up is in the message."""
    scene = Scene(tmp_path)

    async def hangs() -> None:
        await asyncio.Event().wait()

    scene.transaction.undo_with(
        "thaw", hangs, deadline_s=0.05, held_up=lambda: "process 7 is locked"
    )
    scene.may_go_on.set()

    with pytest.raises(CudaError, match=r"did not end in 0\.05 s: process 7 is locked"):
        await scene.transaction.run(scene.forward(commits=False, fails=Busy("in use")))
    assert scene.undone == ["second", "first"]
