"""Checkpoint as a transaction: a complete image, or a task that runs as if nothing had happened.

What is saved is a whole sandbox: a task with those that share it, of which there mostly are none.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from shim.cuda import driver, inventory
from shim.cuda.engine import Parked
from shim.cuda.group import CudaGroup
from shim.errors import (
    CryoError,
    CudaError,
    DeadlineExceeded,
    IllegalState,
    Refused,
    ResourceExhausted,
    RunscError,
)
from shim.host.filecalls import file_call
from shim.host.shielded import shielded
from shim.image import seal, store
from shim.image.manifest import Manifest
from shim.image.store import Staging
from shim.image.verify_cache import VerifyCache
from shim.model import (
    CheckpointOptions,
    CheckpointResult,
    CudaMode,
    CudaProcess,
    EngineName,
    Phase,
    Progress,
    Report,
    utcnow,
)
from shim.transaction import connections, memory, preflight
from shim.transaction.alive import is_alive, unless_dead
from shim.transaction.draft import draft
from shim.transaction.execs import ExecCheck
from shim.transaction.journal import Operation
from shim.transaction.save_idle import wait_for_save_idle
from shim.transaction.saving import Saving
from shim.transaction.steps import Steps, choose, engine_for, group_for, look
from shim.transaction.target import CheckpointTarget
from shim.transaction.transaction import Transaction
from shim.transaction.worker import in_thread, throttled

# How often a save may meet a newcomer.
_NEWCOMERS = 3
# How long the removal of an unfinished image may take, and the end of a journal.
REMOVE_S = 60.0
_CLOSE_S = 10.0


class Checkpoint:
    """One checkpoint of one task. Make it, `run` it once."""

    def __init__(
        self, target: CheckpointTarget, options: CheckpointOptions, report: Report
    ) -> None:
        self._target = target
        defaults = target.config.defaults
        self._engine = options.engine or defaults.engine
        self._mode = options.cuda or defaults.cuda
        self._policy = options.connections or defaults.connections
        exec_policy = options.exec_processes or defaults.exec_processes
        self._options = msgspec.structs.replace(
            options,
            engine=self._engine,
            cuda=self._mode,
            connections=self._policy,
            exec_processes=exec_policy,
        )
        self._config = target.config
        self._journal = target.journal
        self._from_park = target.journal.parked
        self._transaction = Transaction(
            f"checkpoint of {target.ref}",
            target.journal,
            report,
            deadline_s=options.timeout_s or target.config.timeouts.checkpoint,
        )
        warn = self._transaction.warn
        self._execs = ExecCheck(target, exec_policy, warn, exit=options.exit)
        self._saving = Saving(target, self._options, self._transaction)
        self._steps: Steps | None = None
        self._touched = False
        self._waits_for_save = False
        self._resumed = False
        self._inventory = inventory.Inventory()
        self._staging: Staging | None = None
        self._broken: CryoError | None = None
        self._again = _NEWCOMERS
        self._connected: preflight.Connected | None = None
        self._expected_bytes = 0
        self._saved: tuple[CudaProcess, ...] = ()

    # -- the whole -----------------------------------------------------------------------------

    async def run(self) -> CheckpointResult:
        """Do it all, or undo it all.

        Raises:
            CryoError: why it was not done, and the task runs as before; or what failed although
                the image is complete, which it says.
            DeadlineExceeded: the whole took too long; the message names the phase.
        """
        final = await file_call(self._resolve, doing="look at the image's path")
        self._open(final)
        timeouts = self._config.timeouts
        self._transaction.undo_with("close the journal", self._close_undone, deadline_s=_CLOSE_S)
        self._transaction.undo_with(
            "remove the unfinished image",
            self._drop_staging,
            deadline_s=REMOVE_S + timeouts.save,
        )
        self._transaction.undo_with(
            "bring the task back",
            self._bring_back,
            deadline_s=timeouts.rollback,
            held_up=self._held_up,
        )
        return await self._transaction.run(self._forward(final))

    def _resolve(self) -> Path:
        return store.resolve_new(
            self._options.image_path,
            Path(self._config.paths.images),
            self._target.ref,
            utcnow(),
            fill=self._options.fill,
        )

    def _open(self, final: Path) -> None:
        leaves = self._options.exit
        if self._from_park:
            self._check_not_ignored()
            self._journal.open_from_park(str(final), exit=leaves)
            return
        paused = bool(self._target.paused_ids)
        self._journal.open(Operation.CHECKPOINT, str(final), was_paused=paused, exit=leaves)

    def _close(self) -> None:
        """Leave nothing to undo; a task that was parked is so again, while it is there."""
        if self._from_park and is_alive(self._target.sandbox):
            self._journal.park_again()
        else:
            self._journal.close()

    def _check_not_ignored(self) -> None:
        """See that the image of a parked task will know who is frozen.

        Raises:
            IllegalState: it would not.
        """
        if self._mode is CudaMode.IGNORE:
            message = f"task {self._target.ref} is parked: an image must know who is frozen"
            raise IllegalState(message, remedy="leave out --cuda ignore, or resume it first")

    async def _forward(self, final: Path) -> CheckpointResult:
        step = self._transaction.step
        with step(Phase.PREFLIGHT):
            await self._preflight(final)
        staging = await self._begin(final)
        while not await self._freeze_and_save(staging):
            self._again -= 1
        self._check_members()
        if not self._options.exit:
            await self._give_back()
        manifest = await self._seal(staging)
        with step(Phase.COMMIT):
            await self._commit(staging, final, manifest)
        if self._options.exit:
            with step(Phase.STOP):
                await self._stop()
        if self._broken is not None:
            raise _lost(self._broken, final) from self._broken
        self._close()
        return self._result(final, manifest)

    async def _begin(self, final: Path) -> Staging:
        path = store.name_staging(final)
        # Before it is made: the process that finds this journal knows of it then.
        self._journal.note(staging=str(path))

        def begin() -> Staging:
            self._staging = store.begin(path)
            return self._staging

        # To its end, so that a rollback knows what to remove.
        return await shielded(
            file_call(begin, doing=f"begin an image in {path.parent}"), deadline_s=None
        )

    async def _stop(self) -> None:
        """Stop the task, whose image is complete.

        Raises:
            DeadlineExceeded: it does not end; the next owner tries again.
        """
        limit_s = self._config.timeouts.rollback
        try:
            async with asyncio.timeout(limit_s):
                await stop_all(self._target)
        except TimeoutError as error:
            message = f"task {self._target.ref} did not stop in {limit_s:g} s"
            raise DeadlineExceeded(message, remedy="kill the task") from error

    def _result(self, final: Path, manifest: Manifest) -> CheckpointResult:
        return CheckpointResult(
            image_path=str(final),
            size_bytes=manifest.size_bytes,
            digest=manifest.digest,
            engine=manifest.engine,
            processes=manifest.all_processes,
            members=tuple(one.task for one in manifest.members),
            warnings=tuple(self._transaction.warnings),
            timings_s=dict(self._transaction.timings_s),
        )

    # -- preflight -----------------------------------------------------------------------------

    async def _preflight(self, final: Path) -> None:
        self._check_members()
        preflight.check_manifest(self._target)
        preflight.check_restorable(list(self._target.containers))
        preflight.check_network(self._target)
        device_bytes, listed, disk = await asyncio.gather(
            self._device_bytes(),
            asyncio.gather(*(one.guest.ps() for one in self._target.containers)),
            file_call(
                lambda: preflight.measure_disk(self._target, final.parent),
                doing=f"measure the disk of {final.parent}",
            ),
        )
        for rows in listed:
            self._transaction.warn(*preflight.check_execs(self._target, rows))
        exec_processes = tuple(row.pid for rows in listed for row in preflight.exec_processes(rows))
        self._journal.note(exec_processes=exec_processes)
        self._expected_bytes = preflight.check_disk(disk, device_bytes)
        preflight.check_memory(self._target, device_bytes)
        if self._from_park:
            self._take_parked()
        elif self._wants_cuda():
            await self._find_cuda()
        else:
            await self._execs.look_at(listed, (), paused=bool(self._target.paused_ids))
        await self._look_at_tcp()
        await self._check_connections(again=False)

    def _check_members(self) -> None:
        """See that no container has ended: it would be missing in the image, or be dead in it.

        Raises:
            IllegalState: one has.
        """
        gone = [one.ref.id for one in self._target.members if one.ended()]
        if gone:
            message = f"{', '.join(gone)} ended during the checkpoint of {self._target.ref}"
            raise IllegalState(message, remedy="delete what has ended, and try again")

    @property
    def _with_gpu(self) -> list[CheckpointTarget]:
        return [one for one in self._target.containers if one.gpu]

    async def _device_bytes(self) -> int:
        if not self._with_gpu:
            return 0
        try:
            return sum((await memory.held(self._target)).values())
        except CryoError as error:
            self._transaction.warn(
                f"GPU memory is not counted in the image's size beforehand: {error}"
            )
            return 0

    def _wants_cuda(self) -> bool:
        mode, gpu = self._mode, bool(self._with_gpu)
        if mode is CudaMode.IGNORE:
            if gpu:
                self._transaction.warn("--cuda ignore: GPU state is neither saved nor protected")
            return False
        if mode is CudaMode.REQUIRE and not gpu:
            message = f"task {self._target.ref} has no GPU, and --cuda require insists on one"
            raise Refused(message, remedy="leave out --cuda require")
        return gpu

    def _take_parked(self) -> None:
        """Take the processes that are noted as frozen; nobody could find them."""
        self._inventory = inventory.read(self._config.cuda.nvidia_proc)
        facts = driver.capabilities(self._inventory.driver)
        known = self._journal.entry.cuda_processes()
        group = group_for([(self._target, known)], facts, self._transaction.report)
        entry = self._journal.entry
        self._execs.take_parked(group.known, entry.execs, entry.execs_unclear)
        if known:
            self._steps = Steps(engine=Parked(), processes=group)
        if self._engine is EngineName.BUILTIN:
            self._transaction.warn(
                "the task is parked: what is frozen already is saved as by engine phased"
            )

    async def _find_cuda(self) -> None:
        """Find the CUDA processes and choose the engine; none found leaves a plain checkpoint."""
        await self._wake_if_paused()
        self._inventory = inventory.read(self._config.cuda.nvidia_proc)
        facts = driver.capabilities(self._inventory.driver)
        preflight.check_namespaces(self._with_gpu)
        group = group_for([(one, ()) for one in self._with_gpu], facts, self._transaction.report)
        await look(group, otherwise="--cuda ignore goes past this")
        self._judge(group)
        await self._execs.look(group.known, paused=False)
        if not group.known:
            self._no_cuda_found()
            return
        self._transaction.warn(*facts.warnings)
        name = choose(self._target, self._engine_for_drop(), group, facts)
        self._journal.note(engine=name)
        self._journal.processes(group.known)
        self._steps = Steps(engine=engine_for(self._target, name, group), processes=group)

    def _engine_for_drop(self) -> EngineName:
        """Say which engine is wanted: runsc's own thaws all that it finds, or fails the restore.

        Raises:
            Refused: that one was asked for, and a process is to be dropped.
        """
        if not self._execs.dropped:
            return self._engine
        if self._engine is EngineName.BUILTIN:
            message = "runsc's own engine cannot leave out what an exec has started"
            raise Refused(message, remedy="use --engine phased")
        return EngineName.PHASED

    def _judge(self, group: CudaGroup) -> None:
        """Tell of what else the look into the containers has found."""
        tables = [mover.table for mover in group.movers]
        for table in tables:
            others = table.non_cuda_holders
            self._transaction.warn(*preflight.check_non_cuda_holders(self._target, others))
        scans = [table.last_scan for table in tables if table.last_scan]
        told = [scan for scan in scans if scan.tells_tcp]
        if told:
            peers = dict.fromkeys(peer for scan in told for peer in scan.tcp)
            self._connected = preflight.Connected(tcp=tuple(peers))

    def _no_cuda_found(self) -> None:
        if self._mode is CudaMode.REQUIRE:
            message = f"no CUDA process was found in task {self._target.ref}"
            raise Refused(message, remedy="wait until it uses the GPU, or leave out --cuda require")

    async def _wake_if_paused(self) -> None:
        """Resume what is paused for the CUDA steps: a paused sandbox cannot exec."""
        for paused in self._target.paused_ids:
            self._touched = self._resumed = True
            await self._target.runsc.resume(paused)

    async def _look_at_tcp(self) -> None:
        """Look for TCP connections, where the look for CUDA processes has not found them."""
        if self._connected is None:
            paused = bool(self._target.paused_ids) and not self._resumed
            found = await connections.look(self._target, paused=paused)
            unseen = (found.unseen,) if found.unseen else ()
            self._connected = preflight.Connected(tcp=found.peers, unseen=unseen)

    async def _check_connections(self, *, again: bool) -> None:
        """Name the connections that are lost.

        Host sockets count only once the processes are frozen: the freeze closes the driver's own.
        """
        frozen = again or self._steps is None
        known = self._connected or preflight.Connected()
        if frozen:
            host = await preflight.host_connections(self._target)
            known = preflight.Connected(
                host=host.host,
                tcp=(*known.tcp, *host.tcp),
                unseen=(*known.unseen, *host.unseen),
            )
        self._transaction.warn(*preflight.judge_connections(self._target, self._policy, known))

    # -- the steps -----------------------------------------------------------------------------

    async def _freeze_and_save(self, staging: Staging) -> bool:
        """Bring the image into the staging folder; return False where it is worth another try."""
        if self._steps is not None:
            if not self._from_park:
                with self._transaction.step(Phase.FREEZE):
                    await self._freeze(self._steps)
            await self._check_connections(again=True)
        self._check_members()
        # Before the save: what exits after it is in the image all the same.
        known = self._steps.processes.known if self._steps else ()
        self._saved = tuple(self._execs.marked(process) for process in known)
        try:
            with self._transaction.step(Phase.SAVE):
                self._touched = True
                await self._saving.save(staging, self._steps, self._expected_bytes)
                if self._steps is not None:
                    await self._steps.engine.check()
        except RunscError as error:
            if not (self._again > 0 and self._saving.met_a_newcomer(error)):
                raise
            await file_call(staging.empty, doing=f"empty {staging.path}")
            self._transaction.report(
                Progress(phase=Phase.SAVE, message=f"{error.message}; once more")
            )
            return False
        return True

    async def _freeze(self, steps: Steps) -> None:
        self._touched = True
        await steps.engine.freeze()
        self._journal.processes(steps.processes.known)
        if not self._execs.covers(steps.processes.known):
            await self._execs.look(steps.processes.known, paused=False)

    async def _give_back(self) -> None:
        """Let the task go on, before the image is read again for its seal."""
        if self._steps is not None and not self._from_park:
            with self._transaction.step(Phase.THAW):
                await self._thaw(self._steps)
        await self._pause_again()
        self._touched = self._broken is not None

    async def _thaw(self, steps: Steps) -> None:
        """Thaw; when that fails, by the slower way that also undoes.

        When that fails too, the image is all that is left of the process: it is finished first.
        """
        try:
            await steps.engine.thaw()
        except CryoError as first:
            try:
                await steps.engine.undo()
            except CryoError:
                # The first failure is the cause: after it the driver only says that it failed.
                self._broken = self._saving.unthawed or first

    async def _pause_again(self) -> None:
        if self._resumed:
            for paused in self._target.paused_ids:
                await self._target.runsc.pause(paused)
            self._resumed = False

    async def _seal(self, staging: Staging) -> Manifest:
        """Hash the files, write the manifest and make it durable."""
        with self._transaction.step(Phase.SEAL):
            drafted = await draft(
                self._target,
                self._options,
                self._transaction,
                found=self._inventory,
                engine=self._steps.engine.name if self._steps else None,
                saved=self._saved,
                memory_bytes=self._expected_bytes,
            )
            return await in_thread(
                lambda tell: self._hash(staging, drafted, tell), self._transaction.report
            )

    def _hash(self, staging: Staging, drafted: Manifest, tell: Report) -> Manifest:
        staging.check()
        folder = staging.folder
        on_bytes = throttled(tell, Phase.SEAL, folder.size_bytes)
        return seal.seal(folder, drafted, sealed=self._options.seal, on_bytes=on_bytes)

    async def _commit(self, staging: Staging, final: Path, manifest: Manifest) -> None:
        """Give the image its name: from here on nothing is undone."""

        def name() -> None:
            options = self._options
            seal.commit(staging.path, final, durable=options.seal, fill=options.fill)
            staging.close()

        naming = file_call(name, doing=f"name the image {final}")
        await self._transaction.commit(naming, made=_complete(final))
        if not self._options.seal:
            return
        cache = VerifyCache(Path(self._config.paths.verified))
        try:
            await file_call(lambda: cache.remember_image(final, manifest), doing=f"read {final}")
        except (CryoError, OSError) as error:
            # Without it a restore reads the image again, and that is all.
            self._transaction.warn(f"the image could not be noted in paths.verified: {error}")

    # -- undoing -------------------------------------------------------------------------------

    async def _bring_back(self) -> None:
        """Make the task run as before, unless its sandbox is dead.

        Raises:
            CryoError: what could not be undone.
        """
        sandbox = self._target.sandbox
        if not self._touched or not is_alive(sandbox):
            return
        try:
            await unless_dead(sandbox, self._resume_all())
        except CryoError:
            if is_alive(sandbox):
                raise

    async def _resume_all(self) -> None:
        if self._steps is not None:
            entry = self._journal.entry
            # After a failure the sentry keeps the files open until it collects garbage, for
            # minutes: who has its word need not look at them. Before a save there are none.
            writing = bool(entry.save_pid) and not self._saving.answered
            staging = entry.staging if writing else ""
            self._waits_for_save = True
            await wait_for_save_idle(self._target, staging, entry.exec_processes)
            self._waits_for_save = False
            await self._steps.engine.undo()
        await self._pause_again()

    def _held_up(self) -> str:
        """Say what a rollback that is late waits for."""
        if self._waits_for_save:
            return "the sandbox is not done with its save"
        return self._steps.processes.unfinished() if self._steps else ""

    async def _drop_staging(self) -> None:
        """Remove what is not a complete image; keep it where it is all that is left of a process.

        Raises:
            CryoError: it could not be removed, or not be finished.
        """
        staging, failed = self._staging, self._transaction.failed
        if staging is None:
            return
        if failed is not None and self._saving.complete:
            self._transaction.failed = await self._keep(staging, failed)
            return
        await file_call(staging.discard, doing=f"remove {staging.path}", deadline_s=REMOVE_S)

    async def _keep(self, staging: Staging, failed: CryoError) -> CryoError:
        """Finish the image of a task that cannot be thawed; return what to say of the two."""
        final = Path(self._journal.entry.image_path)
        try:
            manifest = await self._seal(staging)
            with self._transaction.step(Phase.COMMIT):
                await self._commit(staging, final, manifest)
        except CryoError as error:
            # Its files stay, for they are nowhere else; the open journal guards them.
            await file_call(staging.close, doing=f"close {staging.path}")
            message = f"{failed.message}; and its image could not be finished: {error.message}"
            return CudaError(message, remedy=f"what was saved is in {staging.path}; {error.remedy}")
        return _lost(failed, final)

    async def _close_undone(self) -> None:
        if self._transaction.failed is None:
            self._close()


async def stop_all(target: CheckpointTarget) -> None:
    """Stop every task of the sandbox, its own last: with that one the sandbox goes."""
    for member in target.members:
        if not member.ended():
            await member.stop()
    await target.stop()


def _complete(image: Path) -> str:
    return f"the image {image} is complete"


def _lost(cause: CryoError, image: Path) -> CryoError:
    """Say that a process is beyond thawing, and where it is whole."""
    message = f"{cause.message}; {_complete(image)}"
    remedy = "kill the task and restore the image"
    if isinstance(cause, ResourceExhausted):
        return ResourceExhausted(message, remedy=f"free GPU memory, {remedy}")
    return CudaError(message, remedy=remedy)
