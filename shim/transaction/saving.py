"""One `runsc checkpoint` into a staging folder: its progress, its end, and its errors."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from shim.cuda.engine import Builtin, explain
from shim.errors import CryoError, RunscError
from shim.host import files
from shim.host.background import BackgroundTasks
from shim.host.filecalls import file_call
from shim.host.shielded import shielded, succeeded
from shim.image.memory_stage import MemoryStage
from shim.image.staging import Staging
from shim.model import CheckpointOptions, Phase, Progress
from shim.runsc.argv import CheckpointArgs
from shim.runsc.failure import failure
from shim.transaction import builds
from shim.transaction.alive import unless_dead
from shim.transaction.steps import Steps
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import Transaction

_WATCH_S = 0.2
_STATE_FILE = "checkpoint.img"
_TOGGLE = "cuda-checkpoint --toggle"
_FULL_BYTES = 1 << 20
# runsc's error for a process that began to use the GPU during the save.
_UNWRITABLE = "encoding error"


class Saving:
    """The saves of one checkpoint; there are several if processes began during one.

    `answered` is whether runsc has reported how the last one ended, `complete` whether its image is
    complete, and `unthawed` the error of runsc's own CUDA steps after it.
    """

    def __init__(
        self, target: CheckpointTarget, options: CheckpointOptions, transaction: Transaction
    ) -> None:
        self._target = target
        self._options = options
        self._transaction = transaction
        self._steps: Steps | None = None
        self.answered = False
        self.complete = False
        self.unthawed: CryoError | None = None

    async def save(
        self, staged: Staging | MemoryStage, steps: Steps | None, expected_bytes: int
    ) -> None:
        """Write the image, and wait for the end also when cancelled: the sentry cannot be stopped.

        Raises:
            CryoError: why the image is not complete.
        """
        self._steps = steps
        staging = staged.path
        self.answered, self.complete = False, False
        helpers = BackgroundTasks()
        helpers.start(self._watch(staged, expected_bytes), name="progress of the save")
        if steps is not None:
            helpers.start(steps.engine.guard(), name="guard of the save")
        saving = asyncio.create_task(self._run(staging))
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            await self._wait_for_end(saving)
            raise
        except CryoError as error:
            explained = await self._explained(error, staging)
            if not await self._only_thaw_failed(error, staging):
                raise explained from error
            self.unthawed = explained
            self._transaction.warn(f"runsc could not thaw after its save: {explained.message}")
        finally:
            await helpers.aclose()
        if self.unthawed is None:
            # If runsc was replaced meanwhile, the manifest would name the wrong one.
            await builds.check_unchanged(self._target)
        self.complete = True

    async def _run(self, staging: Path) -> None:
        journal = self._target.journal

        def note(pid: int, start: int) -> None:
            journal.note(save_pid=pid, save_start=start)

        def answered() -> None:
            self.answered = True

        args = CheckpointArgs(
            id=self._target.ref.id,
            image_path=str(staging),
            compression="flate-best-speed" if self._options.compress else "none",
            direct=self._options.direct,
            cuda_checkpoint_path=self._steps.engine.save_path if self._steps else "",
        )
        timeout_s = self._target.config.timeouts.save
        await self._target.runsc.checkpoint(
            args, timeout_s=timeout_s, started=note, answered=answered
        )

    async def _wait_for_end(self, saving: asyncio.Task[None]) -> None:
        """Wait until a cancelled save has ended, or the sandbox has exited."""
        with contextlib.suppress(CryoError):
            await shielded(unless_dead(self._target.sandbox, saving), deadline_s=None)
        self.complete = succeeded(saving)

    def met_a_newcomer(self, error: CryoError) -> bool:
        """Whether the save may have failed on a process that began to use the GPU during it.

        A process can begin after any look. The sentry cannot write what it holds, and 20240729
        dereferences nil there; the sandbox keeps running, and the next freeze finds the process.
        """
        phased = self._steps is not None and not self._steps.engine.save_path
        newcomer = isinstance(error, RunscError) and _UNWRITABLE in error.line
        return phased and self.answered and newcomer

    async def _only_thaw_failed(self, error: CryoError, staging: Path) -> bool:
        """Whether the image is complete, and only the built-in engine's thaw after it failed.

        Its freeze ends before the first byte of the state is written, and the error of a failed
        save does not mention the tool (SaveWithOpts in pkg/sentry/control/state.go).
        """
        if self._steps is None or not self._steps.engine.save_path:
            return False
        if _TOGGLE not in error.message:
            return False
        state = staging / _STATE_FILE
        return await file_call(
            lambda: state.is_file() and state.stat().st_size > 0, doing=f"look into {staging}"
        )

    async def _explained(self, error: CryoError, staging: Path) -> CryoError:
        # 20240729 dereferences nil on a full disk, so the disk itself is checked.
        if isinstance(error, RunscError):
            free = await file_call(
                lambda: files.free_bytes(staging), doing=f"measure the disk of {staging}"
            )
            if free < _FULL_BYTES:
                return failure("checkpoint", error.status, "no space left on device")
        if self._steps is None or not isinstance(self._steps.engine, Builtin):
            return error
        return explain(
            error,
            hung=self._steps.engine.hung,
            timeout_s=self._target.config.timeouts.freeze,
            known=self._steps.processes.known,
        )

    async def _watch(self, staging: Staging | MemoryStage, expected_bytes: int) -> None:
        """Report how much has been written, until cancelled."""
        while True:
            await asyncio.sleep(_WATCH_S)
            done = await file_call(
                lambda: staging.folder.size_bytes, doing=f"measure {staging.path}"
            )
            total = max(done, expected_bytes)
            progress = Progress(phase=Phase.SAVE, bytes_done=done, bytes_total=total)
            self._transaction.report(progress)
