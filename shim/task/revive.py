"""Restore as a transaction: a running task with every CUDA process awake, or nothing at all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from shim.checkpoint import restore
from shim.checkpoint.journal import Journal, Operation
from shim.checkpoint.manifest import Manifest
from shim.checkpoint.subject import Subject
from shim.checkpoint.worker import settled
from shim.config import Config
from shim.errors import DeadlineExceeded
from shim.model import Phase, Progress, Report, RestoreOptions, RestoreResult
from shim.runsc.probe import Capabilities


class Revivable(Protocol):
    """What a restore needs of the task that it fills."""

    journal: Journal

    async def load_image(self, options: RestoreOptions) -> int:
        """Run `runsc restore` with the task's bundle and streams; return the sandbox's pid."""

    async def subject(self) -> Subject:
        """Hand the loaded task to the CUDA steps."""

    async def remove_sandbox(self) -> None:
        """Kill and delete what the restore made."""


class Revival:
    """One restore into one created task. Make it, `run` it once."""

    def __init__(
        self, task: Revivable, config: Config, options: RestoreOptions, report: Report
    ) -> None:
        self._task = task
        self._config = config
        self._options = options
        self._tell = report
        self._began = time.monotonic()
        self._phase = Phase.VERIFY
        self._timings: dict[str, float] = {}

    async def run(self, capabilities: Capabilities) -> RestoreResult:
        """Verify, load, thaw; on any failure the sandbox is gone and the image untouched.

        Raises:
            CryoError: why it was not done.
            DeadlineExceeded: the whole took too long; the message names the phase.
        """
        self._task.journal.open(Operation.RESTORE, self._options.image_path)
        total_s = self._options.timeout_s or self._config.timeouts.restore
        try:
            async with asyncio.timeout(total_s):
                result = await self._forward(capabilities)
        except TimeoutError as error:
            await self._give_up()
            message = f"restore did not end in {total_s:g} s: it was in phase {self._phase}"
            raise DeadlineExceeded(message, remedy="raise --timeout") from error
        except BaseException:  # a fault of ours must leave nothing either
            await self._give_up()
            raise
        self._task.journal.close()
        return result

    async def _forward(self, capabilities: Capabilities) -> RestoreResult:
        with self._in(Phase.VERIFY):
            manifest = await self._check(capabilities)
        with self._in(Phase.LOAD):
            pid = await self._task.load_image(self._options)
        with self._in(Phase.THAW):
            await restore.wake(
                await self._task.subject(),
                manifest,
                self._report,
                device_map=self._options.device_map,
                background=self._options.background,
            )
        return RestoreResult(
            pid=pid,
            engine=manifest.engine,
            processes=manifest.processes,
            timings_s=dict(self._timings),
        )

    async def _check(self, capabilities: Capabilities) -> Manifest:
        image, mode = Path(self._options.image_path), self._options.verify
        manifest = await restore.check_image(image, mode, self._config, self._report)
        restore.check_options(manifest, self._options, capabilities)
        await restore.check_host(manifest, self._config, capabilities)
        return manifest

    @contextlib.contextmanager
    def _in(self, phase: Phase) -> Iterator[None]:
        """Name and time a phase."""
        self._phase = phase
        self._task.journal.note(phase=phase)
        self._report(Progress(phase=phase))
        began = time.monotonic()
        try:
            yield
        finally:
            self._timings[phase] = round(time.monotonic() - began, 6)

    def _report(self, progress: Progress) -> None:
        elapsed = round(time.monotonic() - self._began, 6)
        self._tell(msgspec.structs.replace(progress, elapsed_s=elapsed))

    async def _give_up(self) -> None:
        """Remove what was made, to its end, however often the caller goes away meanwhile."""
        self._report(Progress(phase=Phase.ROLLBACK))
        work = asyncio.create_task(self._task.remove_sandbox())
        await settled(work)
        work.result()
        self._task.journal.close()
