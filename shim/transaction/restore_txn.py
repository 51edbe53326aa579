"""The restore of a sandbox as one transaction: all containers and CUDA processes run, or none.

The root container comes first and the others join it. runsc loads the image when the last one has
joined (measured on both versions); until then none of them runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from shim.config import Config
from shim.errors import CryoError, DeadlineExceeded, IllegalState, ImageCorrupt, RunscError
from shim.host.filecalls import file_call
from shim.image.manifest import Manifest
from shim.image.verify import HeldImage
from shim.model import CudaProcess, Direct, Phase, Report, RestoreOptions, RestoreResult
from shim.runsc.probe import Capabilities
from shim.transaction import host_settings, page_reading, restore
from shim.transaction.beside_load import BesideLoad, Load
from shim.transaction.hook_runner import HookRunner
from shim.transaction.journal import Journal, Operation
from shim.transaction.page_reading import Reading
from shim.transaction.pages_check import PagesCheck
from shim.transaction.read_ahead import ReadAhead
from shim.transaction.target import CheckpointTarget, combined
from shim.transaction.transaction import Transaction
from shim.transaction.worker import in_thread

T = TypeVar("T")


# How long the end of a journal may take.
_CLOSE_S = 10.0
# How long the end of a verification may take: longer than a filesystem may to answer.
_STOP_S = 35.0


class RestoreTarget(Protocol):
    """A created container into which the image is loaded."""

    journal: Journal

    async def network_warnings(self) -> tuple[str, ...]:
        """Return what its network will lack, one warning each."""

    def hold_exit(self) -> None:
        """Publish no exit before `settle` or `remove_sandbox`."""

    async def load_image(self, options: RestoreOptions, load: Load) -> int:
        """Run `runsc restore` with its bundle and streams; return the sandbox's pid."""

    async def hold_until_loaded(self, fd: int) -> None:
        """Keep a descriptor open until runsc has read all of the image in the background."""

    async def watch_restored(self) -> None:
        """Watch for its exit, now that it runs."""

    def settle(self) -> None:
        """Publish its exit from now on, if that was held back."""

    async def target(self) -> CheckpointTarget:
        """Return it as the CUDA steps see it."""

    async def remove_sandbox(self) -> None:
        """Kill and delete what the restore made of it."""


class Restore:
    """One restore into created containers.

    Either `run` it, or call `begin`, `join` for each other container, and `finish`, each in an
    `attempt`.
    """

    def __init__(
        self,
        root: RestoreTarget,
        config: Config,
        options: RestoreOptions,
        report: Report,
        held: HeldImage | None = None,
        pages: PagesCheck | None = None,
        reading: Reading | None = None,
    ) -> None:
        """Take the root container, and the image if the caller holds it until the restore is over.

        `pages` is set if the caller has also begun to verify the image, for several restores, and
        `reading` if the image is verified, but for pages that may be verified beside the load.
        """
        self._root = root
        self._members: dict[str, RestoreTarget] = {}
        self._config = config
        self._options = options
        self._transaction = Transaction(
            f"restore of {options.image_path}",
            root.journal,
            report,
            deadline_s=self.timeout_s,
            late=self.late,
        )
        self._transaction.phase = Phase.VERIFY
        self._transaction.undo_with("close the journal", self._close_undone, deadline_s=_CLOSE_S)
        self._transaction.undo_with(
            "remove what was made", self._remove, deadline_s=config.timeouts.rollback
        )
        # What others close; the restore has its own descriptor of it.
        self._shared = held if pages is not None else None
        self._pages = pages or PagesCheck()
        self._held = (
            held
            if held is not None and pages is None
            else HeldImage(Path(options.image_path), strict=not options.untrusted_folder)
        )
        self._manifest: Manifest | None = None
        self._plan = reading or Reading(direct=False, reason="")
        self._is_verified = reading is not None
        self._ahead = ReadAhead()
        self._beside = BesideLoad()
        self._pid = 0
        self._done = False

    @property
    def over(self) -> bool:
        """Whether the restore has ended, successful or not."""
        return self._done or self._transaction.over

    @property
    def done(self) -> bool:
        """Whether the restore is complete: everything runs."""
        return self._done

    def report_failure_to(self, report: Callable[[BaseException], Awaitable[None]]) -> None:
        """Call this with the reason of a rollback, before anything is removed."""

        async def work() -> None:
            if self._transaction.cause is not None:
                await report(self._transaction.cause)

        self._transaction.undo_with("report the failure", work, deadline_s=_CLOSE_S)

    def renew(self) -> None:
        """Restart the clock: the timeout is that of each part of the restore."""
        self._transaction.renew()

    @property
    def timeout_s(self) -> float:
        """Return the timeout of the whole restore."""
        return self._options.timeout_s or self._config.timeouts.restore

    async def run(
        self, capabilities: Capabilities, members: Mapping[str, RestoreTarget] | None = None
    ) -> RestoreResult:
        """Verify, load, thaw; on any failure the sandbox is removed, the image unchanged.

        Raises:
            CryoError: the restore failed.
            DeadlineExceeded: the restore timed out; the message names the phase.
        """
        return await self.attempt(self._restore_all(capabilities, members or {}))

    async def _restore_all(
        self, capabilities: Capabilities, members: Mapping[str, RestoreTarget]
    ) -> RestoreResult:
        await self.begin(capabilities)
        for name, member in members.items():
            await self.join(name, member)
        return await self.finish()

    async def attempt(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a part of the restore; its failure rolls back all of it.

        Raises:
            CryoError: the restore failed.
            DeadlineExceeded: the restore timed out; the message names the phase.
        """
        return await self._transaction.run(work)

    def late(self) -> DeadlineExceeded:
        """Return the error for the timeout; it names the phase and the missing containers."""
        phase = self._transaction.phase
        message = f"restore did not end in {self.timeout_s:g} s: it was in phase {phase}"
        if missing := self.missing:
            message += f", and {', '.join(missing)} had not been started"
            return DeadlineExceeded(message, remedy="start every container of the pod")
        return DeadlineExceeded(message, remedy="raise --timeout")

    @property
    def digest(self) -> str:
        """Return the manifest digest of the verified image; empty before `begin`."""
        return self._manifest.digest if self._manifest is not None else ""

    @property
    def missing(self) -> list[str]:
        """List the containers of the image that have not joined yet."""
        members = self._manifest.members if self._manifest is not None else ()
        return [one.name for one in members if one.name not in self._members]

    async def begin(self, capabilities: Capabilities) -> None:
        """Verify the image, and make the sandbox with the root container.

        Pages of an image that this host has read before may be verified beside the load.
        """
        self._root.journal.open(Operation.RESTORE, self._options.image_path, phase=Phase.VERIFY)
        with self._transaction.step(Phase.VERIFY):
            self._manifest = await self._check(capabilities)
            self._transaction.warn(
                *restore.option_warnings(self._options, capabilities),
                *await self._root.network_warnings(),
                *(host_settings.new_warnings(self._config) if self._manifest.has_cuda else ()),
            )
            if self._plan.ahead:
                self._transaction.undo_with(
                    "stop reading ahead", self._ahead.stop, deadline_s=_STOP_S
                )
                self._ahead.start(self._held)
        with self._transaction.step(Phase.LOAD):
            self._pid = await self._load(self._root)

    async def join(self, name: str, member: RestoreTarget) -> None:
        """Add another container; with the last one runsc loads the image."""
        self._members[name] = member
        with self._transaction.step(Phase.LOAD):
            await self._load(member)

    async def finish(self) -> RestoreResult:
        """Thaw every process of every container, and run the post-restore hooks.

        Raises:
            IllegalState: not all containers have joined.
        """
        if self._manifest is None or self.missing:
            message = f"the restore waits for {', '.join(self.missing) or 'its image'}"
            raise IllegalState(message, remedy="start every container of the pod")
        await self._ahead.stop()
        if self._pages.is_needed:
            with self._transaction.step(Phase.VERIFY):
                await self._pages.passed()
        for target in self._targets:
            await target.watch_restored()
        await self._beside.passed()
        restored = await self._checkpoint_target()
        with self._transaction.step(Phase.THAW):
            await restore.thaw_restored(
                restored,
                self._manifest,
                self._transaction.report,
                device_map=self._options.device_map,
                background=self._options.background,
            )
        if self._options.background:
            await self._root.hold_until_loaded(self._held.fd)
        self._held.close()
        hooks = HookRunner(restored, self._transaction.report, self._transaction.step)
        await hooks.after_restore()
        for target in self._targets:
            target.settle()
        self._root.journal.close()
        self._done = True
        self._keep_timeline()
        return RestoreResult(
            pid=self._pid,
            engine=self._manifest.engine,
            processes=_restored_processes(restored, self._manifest),
            members=tuple(one.ref.id for one in restored.members),
            warnings=tuple(self._transaction.warnings),
            timings_s=dict(self._transaction.timings_s),
            direct=self._plan.direct,
            direct_reason=self._plan.reason,
        )

    def _keep_timeline(self, error: BaseException | None = None) -> None:
        """Keep with the root task where the time went."""
        timeline = self._transaction.recorder.timeline(error)
        if self._manifest is not None:
            timeline = msgspec.structs.replace(
                timeline, engine=self._manifest.engine, size_bytes=self._manifest.size_bytes
            )
        if self._plan.reason:
            how = "with O_DIRECT" if self._plan.direct else "through the page cache"
            note = f"pages read {how}: {self._plan.reason}"
            timeline = msgspec.structs.replace(timeline, notes=(note,))
        image = self._options.image_path
        self._transaction.keep_timeline(msgspec.structs.replace(timeline, image_path=image))

    @property
    def _targets(self) -> Sequence[RestoreTarget]:
        return (self._root, *self._members.values())

    async def _checkpoint_target(self) -> CheckpointTarget:
        members = [await member.target() for member in self._members.values()]
        return combined(await self._root.target(), members)

    async def _load(self, target: RestoreTarget) -> int:
        """Load the verified directory, even if its path now names another."""
        options = msgspec.structs.replace(
            self._options,
            image_path=self._held.path,
            direct=Direct.ON if self._plan.direct else Direct.OFF,
        )
        load = Load(
            begun=partial(self._beside.note_use, self._held.image, self._config),
            # runsc reads the image when the last container has joined.
            ended=_nothing if self.missing else partial(self._beside.check, self._held),
        )
        if self._pages.is_needed:
            target.hold_exit()
        try:
            return await self._pages.beside(target.load_image(options, load))
        except CryoError as error:
            error.rename(options.image_path, self._options.image_path)
            await self._look_for_cause(error)
            raise

    async def _look_for_cause(self, error: CryoError) -> None:
        """Say what is wrong with the image, if that is why runsc could not load it.

        Raises:
            ImageCorrupt: a file was removed, replaced or written to meanwhile.
        """
        if not isinstance(error, RunscError):
            return
        try:
            await file_call(self._held.check_unchanged, doing=f"look at {self._held.image}")
        except ImageCorrupt as changed:
            raise changed from error

    async def _check(self, capabilities: Capabilities) -> Manifest:
        manifest = await self._verify(capabilities)
        await restore.check_accepted(self._held, self._options.verify, self._config)
        restore.check_options(manifest, self._options, capabilities)
        await restore.check_host(manifest, self._config, capabilities)
        return manifest

    async def _verify(self, capabilities: Capabilities) -> Manifest:
        """Verify the image, unless the caller does, and plan how its pages are read."""
        report = self._transaction.report
        if self._shared is not None:
            self._held = self._shared.copy()
            return self._held.read()
        if not self._is_verified:
            check = restore.check_to_load(self._held, self._options, self._config)

            def work(progress: Report) -> Reading:
                manifest = check(progress)
                return page_reading.plan(self._held, manifest, self._options, capabilities)

            self._plan = await in_thread(work, report)
        self._transaction.undo_with("stop the verification", self._pages.stop, deadline_s=_STOP_S)
        self._pages.start(self._held, report)
        return self._held.read()

    async def pages_passed(self) -> None:
        """Wait until the pages of the image are verified, if that is left to do.

        Raises:
            ImageCorrupt: they are damaged.
        """
        await self._pages.passed()

    async def roll_back(self, cause: BaseException) -> None:
        """Remove what was made, even if the caller is cancelled meanwhile.

        Raises:
            CudaError: something could not be removed.
        """
        await self._transaction.roll_back(cause)

    async def _remove(self) -> None:
        """Remove the root container first: the others exit with its sandbox."""
        failed: CryoError | None = None
        for target in self._targets:
            try:
                await target.remove_sandbox()
            except CryoError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def _close_undone(self) -> None:
        await self._beside.stop()
        self._held.close()
        if self._transaction.failed is None:
            self._root.journal.close()
        self._keep_timeline(self._transaction.cause)


def _nothing() -> None:
    pass


def _restored_processes(restored: CheckpointTarget, manifest: Manifest) -> tuple[CudaProcess, ...]:
    """List the restored processes, each with the new id of its container."""
    ids = {one.name: one.container for one in restored.members}
    return tuple(process for process in manifest.processes if not process.dropped) + tuple(
        msgspec.structs.replace(process, container=ids[saved.name])
        for saved in manifest.members
        for process in saved.processes
        if not process.dropped
    )
