"""Checkpoint as a transaction: a complete image, or a task that runs as if nothing had happened.

What is saved is a whole sandbox: a task with those that share it, of which there mostly are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shim.checkpoint import hostfacts, memory, preflight, seal, store
from shim.checkpoint.builds import runsc_build
from shim.checkpoint.execs import ExecCheck
from shim.checkpoint.journal import Operation
from shim.checkpoint.ledger import Ledger
from shim.checkpoint.manifest import Manifest, Member
from shim.checkpoint.quiet import until_quiet
from shim.checkpoint.steps import (
    Steps,
    choose,
    engine_for,
    failed_rollback,
    fleet_for,
    late_rollback,
    look,
    tools_of,
)
from shim.checkpoint.store import Staging
from shim.checkpoint.subject import Subject
from shim.checkpoint.worker import in_thread, metered, settled, unbroken
from shim.cuda import driver, inventory
from shim.cuda.engine import Builtin, Parked, explain
from shim.cuda.fleet import Fleet
from shim.errors import (
    CryoError,
    CudaError,
    DeadlineExceeded,
    IllegalState,
    Refused,
    ResourceExhausted,
    RunscError,
)
from shim.host import files, procs
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
from shim.runsc import settings
from shim.runsc.argv import CheckpointArgs
from shim.runsc.failure import failure
from shim.spec import document

_WATCH_S = 0.2
_STATE_FILE = "checkpoint.img"
_TOGGLE = "cuda-checkpoint --toggle"
_FULL_BYTES = 1 << 20
# How often a save may meet a newcomer, and what runsc says of it.
_NEWCOMERS = 3
_UNWRITABLE = "encoding error"


class Checkpoint:
    """One checkpoint of one task. Make it, `run` it once."""

    def __init__(self, subject: Subject, options: CheckpointOptions, report: Report) -> None:
        self._subject = subject
        defaults = subject.config.defaults
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
        self._execs = ExecCheck(subject, exec_policy, self._warn, exit=options.exit)
        self._tell = report
        self._config = subject.config
        self._journal = subject.journal
        self._from_park = subject.journal.parked
        self._phase = Phase.PREFLIGHT
        self._began = time.monotonic()
        self._timings: dict[str, float] = {}
        self._warnings: list[str] = []
        self._steps: Steps | None = None
        self._touched = False
        self._resumed = False
        self._inventory = inventory.Inventory()
        self._staging: Staging | None = None
        self._broken: CryoError | None = None
        self._unthawed: CryoError | None = None
        self._complete = False
        self._answered = False
        self._again = _NEWCOMERS
        self._tcp: tuple[str, ...] = ()
        self._expected_bytes = 0
        self._saved: tuple[CudaProcess, ...] = ()

    # -- the whole -----------------------------------------------------------------------------

    async def run(self) -> CheckpointResult:
        """Do it all, or undo it all.

        Raises:
            CryoError: why it was not done; the task runs as before.
            DeadlineExceeded: the whole took too long; the message names the phase.
        """
        final = store.resolve_new(
            self._options.image_path,
            Path(self._config.paths.images),
            self._subject.ref,
            utcnow(),
            fill=self._options.fill,
        )
        self._open(final)
        total_s = self._options.timeout_s or self._config.timeouts.checkpoint
        try:
            async with asyncio.timeout(total_s):
                result = await self._forward(final)
        except TimeoutError as error:
            message = f"checkpoint of {self._subject.ref} did not end in {total_s:g} s"
            late = DeadlineExceeded(
                f"{message}: it was in phase {self._phase}", remedy="raise --timeout"
            )
            await self._undo(late)
            raise late from error
        except BaseException as error:  # a mistake of ours must not leave a process frozen either
            await self._undo(error)
            raise
        self._close()
        return result

    def _open(self, final: Path) -> None:
        leaves = self._options.exit
        if self._from_park:
            self._check_not_ignored()
            self._journal.open_from_park(str(final), exit=leaves)
            return
        paused = bool(self._subject.paused_ids)
        self._journal.open(Operation.CHECKPOINT, str(final), was_paused=paused, exit=leaves)

    def _close(self) -> None:
        """Leave nothing to undo; a task that was parked is so again, while it is there."""
        sandbox = self._subject.sandbox
        if self._from_park and procs.is_alive(sandbox.pid, sandbox.start):
            self._journal.park_again()
        else:
            self._journal.close()

    def _check_not_ignored(self) -> None:
        """See that the image of a parked task will know who is frozen.

        Raises:
            IllegalState: it would not.
        """
        if self._mode is CudaMode.IGNORE:
            message = f"task {self._subject.ref} is parked: an image must know who is frozen"
            raise IllegalState(message, remedy="leave out --cuda ignore, or resume it first")

    async def _forward(self, final: Path) -> CheckpointResult:
        with self._in(Phase.PREFLIGHT):
            await self._preflight(final)
        staging = store.name_staging(final)
        # Before it is made: whoever finds this journal knows of it then.
        self._journal.note(staging=str(staging))
        self._staging = store.begin(staging)
        while not await self._freeze_and_save(self._staging):
            self._again -= 1
        self._check_members()
        if not self._options.exit:
            await self._give_back()
        manifest = await self._seal(staging)
        with self._in(Phase.COMMIT):
            self._commit(staging, final, manifest)
        if self._options.exit:
            with self._in(Phase.STOP):
                # The image has its name: a caller who leaves now gets what he asked for.
                await unbroken(stop_all(self._subject))
        if self._broken is not None:
            raise _lost(self._broken, final) from self._broken
        return self._result(final, manifest)

    def _result(self, final: Path, manifest: Manifest) -> CheckpointResult:
        return CheckpointResult(
            image_path=str(final),
            size_bytes=manifest.size_bytes,
            digest=manifest.digest,
            engine=manifest.engine,
            processes=manifest.all_processes,
            members=tuple(one.task for one in manifest.members),
            warnings=tuple(self._warnings),
            timings_s=dict(self._timings),
        )

    @contextlib.contextmanager
    def _in(self, phase: Phase) -> Iterator[None]:
        """Name, journal and time a phase."""
        self._phase = phase
        self._journal.note(phase=phase)
        self._report(Progress(phase=phase))
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self._timings[phase] = round(self._timings.get(phase, 0.0) + spent, 6)

    def _report(self, progress: Progress) -> None:
        elapsed = round(time.monotonic() - self._began, 6)
        self._tell(msgspec.structs.replace(progress, elapsed_s=elapsed))

    def _warn(self, *warnings: str) -> None:
        for text in warnings:
            if text not in self._warnings:
                self._warnings.append(text)
                self._report(Progress(phase=self._phase, message=text, warning=True))

    # -- preflight -----------------------------------------------------------------------------

    async def _preflight(self, final: Path) -> None:
        self._check_members()
        preflight.check_manifest(self._subject)
        device_bytes, listed = await asyncio.gather(
            self._device_bytes(),
            asyncio.gather(*(one.guest.ps() for one in self._subject.containers)),
        )
        for rows in listed:
            self._warn(*preflight.check_execs(self._subject, rows))
        outsiders = tuple(row.pid for rows in listed for row in preflight.outsiders(rows))
        self._journal.note(outsiders=outsiders)
        self._expected_bytes = preflight.check_disk(self._subject, final.parent, device_bytes)
        preflight.check_memory(self._subject, device_bytes)
        if self._from_park:
            self._take_parked()
        elif self._wants_cuda():
            await self._find_cuda()
        else:
            await self._execs.look((), paused=bool(self._subject.paused_ids))
        self._check_connections(again=False)

    def _check_members(self) -> None:
        """See that no container has ended: it would be missing in the image, or be dead in it.

        Raises:
            IllegalState: one has.
        """
        gone = [one.ref.id for one in self._subject.members if one.ended()]
        if gone:
            message = f"{', '.join(gone)} ended during the checkpoint of {self._subject.ref}"
            raise IllegalState(message, remedy="delete what has ended, and try again")

    @property
    def _with_gpu(self) -> list[Subject]:
        return [one for one in self._subject.containers if one.gpu]

    async def _device_bytes(self) -> int:
        if not self._with_gpu:
            return 0
        try:
            return sum((await memory.held(self._subject)).values())
        except CryoError as error:
            self._warn(f"GPU memory is not counted in the image's size beforehand: {error}")
            return 0

    def _wants_cuda(self) -> bool:
        mode, gpu = self._mode, bool(self._with_gpu)
        if mode is CudaMode.IGNORE:
            if gpu:
                self._warn("--cuda ignore: GPU state is neither saved nor protected")
            return False
        if mode is CudaMode.REQUIRE and not gpu:
            message = f"task {self._subject.ref} has no GPU, and --cuda require insists on one"
            raise Refused(message, remedy="leave out --cuda require")
        return gpu

    def _take_parked(self) -> None:
        """Take the processes that are noted as frozen; nobody could find them."""
        self._inventory = inventory.read(self._config.cuda.nvidia_proc)
        facts = driver.capabilities(self._inventory.driver)
        known = self._journal.entry.cuda_processes()
        fleet = fleet_for([(self._subject, known)], facts, self._report)
        self._execs.take_parked(fleet.known, self._journal.entry.execs)
        if known:
            self._steps = Steps(engine=Parked(fleet), processes=fleet)
        if self._engine is EngineName.BUILTIN:
            self._warn("the task is parked: what is frozen already is saved as by engine phased")

    async def _find_cuda(self) -> None:
        """Find the CUDA processes and choose the engine; none found leaves a plain checkpoint."""
        await self._wake_if_paused()
        self._inventory = inventory.read(self._config.cuda.nvidia_proc)
        facts = driver.capabilities(self._inventory.driver)
        preflight.check_namespaces(self._with_gpu)
        fleet = fleet_for([(one, ()) for one in self._with_gpu], facts, self._report)
        await look(fleet, otherwise="--cuda ignore goes past this")
        self._judge(fleet)
        await self._execs.look(fleet.known, paused=False)
        if not fleet.known:
            self._no_cuda_found()
            return
        self._warn(*facts.warnings)
        name = choose(self._subject, self._engine_for_drop(), fleet, facts)
        tool_path = next(iter(tools_of(self._subject, fleet)), "")
        self._journal.note(engine=name, tool_path=tool_path)
        self._journal.processes(fleet.known)
        self._steps = Steps(engine=engine_for(self._subject, name, fleet), processes=fleet)

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

    def _judge(self, fleet: Fleet) -> None:
        """Tell of what else the look into the containers has found."""
        for part in fleet.parts:
            self._warn(*preflight.check_bystanders(self._subject, part.bystanders))
        scans = [part.last_scan for part in fleet.parts if part.last_scan]
        self._tcp = tuple(dict.fromkeys(peer for scan in scans for peer in scan.tcp))

    def _no_cuda_found(self) -> None:
        if self._mode is CudaMode.REQUIRE:
            message = f"no CUDA process was found in task {self._subject.ref}"
            raise Refused(message, remedy="wait until it uses the GPU, or leave out --cuda require")

    async def _wake_if_paused(self) -> None:
        """Resume what is paused for the CUDA steps: a paused sandbox cannot exec."""
        for paused in self._subject.paused_ids:
            self._touched = self._resumed = True
            await self._subject.runsc.resume(paused)

    def _check_connections(self, *, again: bool) -> None:
        """Name what the save would cut.

        Host sockets count only once the processes are frozen: the freeze closes the driver's own.
        """
        frozen = again or self._steps is None
        found = preflight.host_connections(self._subject) if frozen else []
        own = self._config.cuda.own_sockets
        unix = [c.peer for c in found if c.kind == "unix" and not c.peer.startswith(own)]
        tcp = [*self._tcp, *(c.peer for c in found if c.kind == "tcp")]
        self._warn(*preflight.judge_connections(self._subject, self._policy, unix, tcp))

    # -- the steps -----------------------------------------------------------------------------

    async def _freeze_and_save(self, staging: Staging) -> bool:
        """Bring the image into the staging folder; return False where it is worth another try."""
        if self._steps is not None:
            if not self._from_park:
                with self._in(Phase.FREEZE):
                    await self._freeze(self._steps)
            self._check_connections(again=True)
        self._check_members()
        # Before the save: what exits after it is in the image all the same.
        self._saved = self._found()
        try:
            with self._in(Phase.SAVE):
                await self._save(staging.path)
                if self._steps is not None:
                    await self._steps.engine.check()
        except RunscError as error:
            if not self._met_a_newcomer(error):
                raise
            await asyncio.to_thread(staging.empty)
            self._report(Progress(phase=Phase.SAVE, message=f"{error.message}; once more"))
            return False
        return True

    def _met_a_newcomer(self, error: RunscError) -> bool:
        """Whether the save may have failed on a process that began to use the GPU meanwhile.

        No look can come so late that none begins after it. What such a one holds the sentry cannot
        write, and 20240729 dereferences nil in it; it goes on, and the next freeze finds the
        process.
        """
        phased = self._steps is not None and not self._steps.engine.save_path
        return phased and self._again > 0 and self._answered and _UNWRITABLE in error.line

    async def _freeze(self, steps: Steps) -> None:
        self._touched = True
        await steps.engine.freeze()
        self._journal.processes(steps.processes.known)
        if not self._execs.covers(steps.processes.known):
            await self._execs.look(steps.processes.known, paused=False)

    async def _save(self, staging: Path) -> None:
        """Write the image; once begun it is waited for, for the sentry cannot be told to stop."""
        self._touched = True
        self._answered = False
        args = CheckpointArgs(
            id=self._subject.ref.id,
            image_path=str(staging),
            compression="flate-best-speed" if self._options.compress else "none",
            direct=self._options.direct,
            cuda_checkpoint_path=self._steps.engine.save_path if self._steps else "",
        )
        timeout_s = self._config.timeouts.save
        helpers = [asyncio.create_task(self._watch(staging))]
        if self._steps is not None:
            helpers.append(asyncio.create_task(self._steps.engine.guard()))
        saving = asyncio.create_task(
            self._subject.runsc.checkpoint(
                args,
                timeout_s=timeout_s,
                started=self._note_save,
                answered=self._note_answer,
            )
        )
        try:
            await asyncio.shield(saving)
        except asyncio.CancelledError:
            await settled(saving)
            self._complete = saving.exception() is None
            raise
        except CryoError as error:
            explained = self._explained(error, staging)
            if not self._only_thaw_failed(error, staging):
                raise explained from error
            self._unthawed = explained
            self._warn(f"runsc could not thaw after its save: {explained.message}")
        finally:
            await _ended(helpers)
        self._complete = True

    def _only_thaw_failed(self, error: CryoError, staging: Path) -> bool:
        """Whether the image is complete, and only what the built-in engine does after it failed.

        Its freeze is over before the first byte of the state is written, and a failed save says
        nothing of the tool (SaveWithOpts in pkg/sentry/control/state.go).
        """
        if self._steps is None or not self._steps.engine.save_path:
            return False
        state = staging / _STATE_FILE
        return _TOGGLE in error.message and state.is_file() and state.stat().st_size > 0

    def _note_save(self, pid: int, start: int) -> None:
        self._journal.note(save_pid=pid, save_start=start)

    def _note_answer(self) -> None:
        self._answered = True

    def _explained(self, error: CryoError, staging: Path) -> CryoError:
        # 20240729 dereferences nil where the disk is full: then the disk itself tells.
        if isinstance(error, RunscError) and files.free_bytes(staging) < _FULL_BYTES:
            return failure("checkpoint", error.status, "no space left on device")
        if self._steps is None or not isinstance(self._steps.engine, Builtin):
            return error
        return explain(
            error,
            hung=self._steps.engine.hung,
            timeout_s=self._config.timeouts.freeze,
            known=self._steps.processes.known,
        )

    async def _watch(self, staging: Path) -> None:
        """Tell how much is written, while it is."""
        while True:
            await asyncio.sleep(_WATCH_S)
            done = sum(entry.stat().st_size for entry in staging.iterdir())
            total = max(done, self._expected_bytes)
            self._report(Progress(phase=Phase.SAVE, bytes_done=done, bytes_total=total))

    async def _give_back(self) -> None:
        """Let the task go on, before the image is read again for its seal."""
        if self._steps is not None and not self._from_park:
            with self._in(Phase.THAW):
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
                self._broken = self._unthawed or first

    async def _pause_again(self) -> None:
        if self._resumed:
            for paused in self._subject.paused_ids:
                await self._subject.runsc.pause(paused)
            self._resumed = False

    async def _seal(self, staging: Path) -> Manifest:
        """Hash the files, write the manifest and make it durable."""
        with self._in(Phase.SEAL):
            draft = await self._draft()
            return await in_thread(lambda tell: self._hash(staging, draft, tell), self._report)

    def _hash(self, staging: Path, draft: Manifest, tell: Report) -> Manifest:
        total = sum(entry.stat().st_size for entry in staging.iterdir())
        tick = metered(tell, Phase.SEAL, total)
        return seal.seal(staging, draft, sealed=self._options.seal, tick=tick)

    async def _draft(self) -> Manifest:
        subject, host = self._subject, hostfacts.read_host()
        devices = [device for one in self._with_gpu for device in one.spec.devices]
        cuda = self._steps is not None
        return Manifest(
            created_at=utcnow(),
            namespace=subject.ref.namespace,
            task=subject.ref.id,
            runsc=await runsc_build(subject.runsc.capabilities),
            runsc_flags=settings.recorded(subject.flags),
            arch=host.arch,
            kernel=host.kernel,
            cpu_features=host.cpu_features,
            spec=subject.spec.data,
            spec_digest=document.digest(subject.spec),
            bundle=str(subject.bundle),
            rootfs=str(subject.spec.rootfs),
            driver=self._inventory.driver,
            guest_tool=subject.guest_tool,
            engine=self._steps.engine.name if self._steps else "",
            gpus=inventory.visible(self._inventory.gpus, devices) if cuda else (),
            processes=self._saved_of(subject),
            members=tuple(self._member(one) for one in subject.members),
            options=self._options,
            paused=bool(subject.paused_ids),
            memory_bytes=self._expected_bytes,
            timings_s=dict(self._timings),
            warnings=tuple(self._warnings),
        )

    def _member(self, one: Subject) -> Member:
        return Member(
            task=one.ref.id,
            name=one.name,
            spec=one.spec.data,
            spec_digest=document.digest(one.spec),
            bundle=str(one.bundle),
            rootfs=str(one.spec.rootfs),
            guest_tool=one.guest_tool,
            gpu=one.gpu,
            processes=self._saved_of(one),
        )

    def _found(self) -> tuple[CudaProcess, ...]:
        known = self._steps.processes.known if self._steps else ()
        return tuple(self._execs.marked(process) for process in known)

    def _saved_of(self, one: Subject) -> tuple[CudaProcess, ...]:
        """List what was saved of one container; whose it is, the manifest says by the place."""
        return tuple(
            msgspec.structs.replace(process, container="")
            for process in self._saved
            if process.container == one.container
        )

    def _commit(self, staging: Path, final: Path, manifest: Manifest) -> None:
        seal.commit(staging, final, durable=self._options.seal, fill=self._options.fill)
        # It has its name: from here on nothing may fail for the want of a note.
        self._journal.forgive()
        self._journal.note(committed=True)
        if self._staging is not None:
            self._staging.close()
        self._touched = self._touched and not self._options.exit
        if self._options.seal:
            Ledger(Path(self._config.paths.verified)).remember_image(final, manifest)

    # -- undoing -------------------------------------------------------------------------------

    async def _undo(self, cause: BaseException) -> None:
        """Roll back to its end, however often the caller goes away meanwhile."""
        work = asyncio.create_task(self._rollback(cause))
        await settled(work)
        work.result()

    async def _rollback(self, cause: BaseException) -> None:
        self._journal.forgive()
        if self._journal.entry.committed:
            # The image is complete and has its name; what was left is the stop, or, where a
            # process is beyond thawing, another try by whoever starts next.
            if self._broken is None:
                self._close()
            return
        self._report(Progress(phase=Phase.ROLLBACK, message=str(cause)))
        failed = await self._bring_back()
        if failed is not None and self._complete and self._staging is not None:
            # What could not be thawed is whole in the image and nowhere else.
            await self._keep(self._staging.path, failed)
        if self._staging is not None:
            await asyncio.to_thread(self._staging.discard)
        if failed is not None:
            raise failed_rollback(cause, failed) from failed
        self._close()

    async def _keep(self, staging: Path, failed: CryoError) -> None:
        """Finish the image of a task that cannot be thawed.

        Raises:
            CudaError: always; it says where the image is.
        """
        final = Path(self._journal.entry.image_path)
        self._commit(staging, final, await self._seal(staging))
        raise _lost(failed, final) from failed

    async def _bring_back(self) -> CryoError | None:
        """Make the task run as before; return what could not be undone."""
        sandbox = self._subject.sandbox
        if not self._touched or not procs.is_alive(sandbox.pid, sandbox.start):
            return None
        try:
            if self._steps is not None:
                entry = self._journal.entry
                # After a failure the sentry keeps the files open until it collects garbage, for
                # minutes: who has its word need not look at them. Before a save there are none.
                writing = bool(entry.save_pid) and not self._answered
                staging = entry.staging if writing else ""
                await until_quiet(self._subject, staging, entry.outsiders)
            async with asyncio.timeout(self._config.timeouts.rollback):
                if self._steps is not None:
                    await self._steps.engine.undo()
                await self._pause_again()
        except TimeoutError:
            held_up = self._steps.processes.unfinished() if self._steps else ""
            return late_rollback(self._config.timeouts.rollback, held_up)
        except CryoError as error:
            return error
        return None


async def stop_all(subject: Subject) -> None:
    """Stop every task of the sandbox, its own last: with that one the sandbox goes."""
    for member in subject.members:
        if not member.ended():
            await member.stop()
    await subject.stop()


def _lost(cause: CryoError, image: Path) -> CryoError:
    """Say that a process is beyond thawing, and where it is whole."""
    message = f"{cause.message}; the image {image} is complete"
    remedy = "kill the task and restore the image"
    if isinstance(cause, ResourceExhausted):
        return ResourceExhausted(message, remedy=f"free GPU memory, {remedy}")
    return CudaError(message, remedy=remedy)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
