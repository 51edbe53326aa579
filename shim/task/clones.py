"""One image restored as several tasks at the same time, each complete or rolled back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from shim.config import Config
from shim.cuda.spread import GpuSpread
from shim.errors import Cancelled, CryoError, InvalidArgument
from shim.image.images import Images
from shim.image.verify import HeldImage
from shim.model import (
    Clone,
    CloneResult,
    Phase,
    Progress,
    Report,
    RestoreResult,
    TaskRef,
)
from shim.task.restore_call import RestoreCall
from shim.task.transactions import Transactions
from shim.transaction import clone_gpus, restore
from shim.transaction.memory_room import MemoryRoom
from shim.transaction.pages_check import PagesCheck
from shim.transaction.worker import in_thread

_log = logging.getLogger(__name__)
# Measured: a restore often waits, for its sandbox and gofer to start, so that more than one for
# each core are faster, and 16 at once on 2 cores no slower than any smaller number.
_FOR_EACH_CORE = 8
_MAX = 1024

Admit = Callable[[TaskRef], None]
"""Raises if another process has a task of that name."""


class Clones:
    """Restores an image as several tasks."""

    def __init__(
        self, config: Config, images: Images, restores: RestoreCall, transactions: Transactions
    ) -> None:
        self._config = config
        self._images = images
        self._restores = restores
        self._transactions = transactions

    async def run(
        self, clones: Sequence[Clone], at_once: int, admit: Admit, report: Report
    ) -> tuple[CloneResult, ...]:
        """Verify the image once, and restore it as each of the tasks; return what became of each.

        When it is cancelled, those that are not complete are rolled back.

        Raises:
            InvalidArgument: the clones are not of one image, or two have the same name.
            CryoError: the image cannot be used; there is no new task.
        """
        _check(clones)
        options = clones[0].options
        image = await self._images.find(options.image_path, clones[0].ref.namespace)
        held, pages = HeldImage(image, strict=not options.untrusted_folder), PagesCheck()
        try:
            check = restore.check_to_load(held, options, self._config)
            manifest = await in_thread(check, report)
            await restore.check_accepted(held, options.verify, self._config)
            pages.start(held, report)
            batch = _Batch(self._restores, self._transactions, held, pages, admit, report)
            batch.needed_bytes = restore.loaded_bytes(manifest)
            spread = await clone_gpus.spread_of(manifest, self._config, report)
            gate = asyncio.Semaphore(at_once or _FOR_EACH_CORE * (os.cpu_count() or 1))

            async def one(clone: Clone) -> CloneResult:
                async with gate:
                    gpus = spread.gpus_of(clone.options.device_map)
                    return msgspec.structs.replace(await batch.restored(clone), gpus=gpus)

            async with asyncio.TaskGroup() as group:
                made = [group.create_task(one(_placed(clone, spread))) for clone in clones]
            await pages.passed()
            return tuple(task.result() for task in made)
        finally:
            await pages.stop()
            held.close()


class _Batch:
    """The restores of one image that is held for all of them."""

    def __init__(
        self,
        restores: RestoreCall,
        transactions: Transactions,
        held: HeldImage,
        pages: PagesCheck,
        admit: Admit,
        report: Report,
    ) -> None:
        self.needed_bytes = 0
        self._restores = restores
        self._transactions = transactions
        self._held = held
        self._pages = pages
        self._admit = admit
        self._take = report
        self._began = time.monotonic()
        self._room = MemoryRoom()
        self._preparing = asyncio.Semaphore(os.cpu_count() or 1)

    def _report(self, progress: Progress) -> None:
        elapsed_s = time.monotonic() - self._began
        self._take(msgspec.structs.replace(progress, elapsed_s=elapsed_s))

    async def restored(self, clone: Clone) -> CloneResult:
        """Restore one clone; its error is in its result."""
        ref = clone.ref
        async with self._room.taken(self.needed_bytes), self._turn() as prepared:
            began = time.monotonic()
            try:
                result = await self._run(clone, prepared)
            except CryoError as error:
                return self._failed(clone, error, time.monotonic() - began)
            took_s = time.monotonic() - began
        self._report(
            Progress(
                phase=Phase.LOAD,
                pid=result.pid,
                pid_state="running",
                container=ref.id,
                took_s=took_s,
            )
        )
        options = clone.options
        return CloneResult(id=ref.id, took_s=took_s, device_map=options.device_map, restored=result)

    async def _run(self, clone: Clone, prepared: Callable[[], None]) -> RestoreResult:
        ref = clone.ref

        def on_progress(progress: Progress) -> None:
            if progress.phase is Phase.LOAD:
                prepared()
            if progress.warning:
                text = f"{ref}: {progress.message}"
                self._report(msgspec.structs.replace(progress, message=text))

        try:
            self._admit(ref)
            work = self._restores.run_held(ref, clone.options, on_progress, self._held, self._pages)
            return await self._transactions.run(work, "restore", sandbox=ref)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            message = "its restore was cancelled, and rolled back"
            raise Cancelled(message, remedy="restore it again") from error
        except CryoError:
            raise
        except Exception as error:  # a bug in one must not roll back the others
            _log.exception("the restore of %s failed unexpectedly", ref)
            message = f"internal error: {type(error).__name__}"
            raise CryoError(message, remedy="see the server's log") from error

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[Callable[[], None]]:
        """Wait for a turn to prepare a task, which ends with the block or with a call of this.

        Otherwise all would be prepared, by one thread, before the first one is loaded.
        """
        await self._preparing.acquire()
        with contextlib.ExitStack() as turn:
            turn.callback(self._preparing.release)
            yield turn.close

    def _failed(self, clone: Clone, error: CryoError, took_s: float) -> CloneResult:
        text = f"{clone.ref}: {error.message}"
        self._report(Progress(phase=Phase.ROLLBACK, message=text, warning=True))
        return CloneResult(
            id=clone.ref.id,
            took_s=took_s,
            device_map=clone.options.device_map,
            kind=type(error).__name__,
            error=error.message,
            remedy=error.remedy,
        )


def _placed(clone: Clone, spread: GpuSpread) -> Clone:
    """Return the clone with GPUs chosen for it, unless the caller has chosen."""
    if clone.options.device_map:
        return clone
    options = msgspec.structs.replace(clone.options, device_map=spread.next())
    return msgspec.structs.replace(clone, options=options)


def _check(clones: Sequence[Clone]) -> None:
    """Check that the clones are of one image, and have different names.

    Raises:
        InvalidArgument: they are not, or there are none, or too many.
    """
    if not 0 < len(clones) <= _MAX:
        message = f"{len(clones)} clones cannot be made"
        raise InvalidArgument(message, remedy=f"ask for 1 to {_MAX}")
    shared = {
        (one.ref.namespace, options.image_path, options.verify, options.untrusted_folder)
        for one in clones
        for options in (one.options,)
    }
    if len(shared) > 1:
        message = "the clones differ in namespace, image, or how it is verified"
        raise InvalidArgument(message, remedy="clone one image at a time")
    counts = Counter(one.ref for one in clones)
    if repeated := sorted(str(ref) for ref, count in counts.items() if count > 1):
        message = f"several clones would become task {repeated[0]}"
        raise InvalidArgument(message, remedy="give each an id of its own")
