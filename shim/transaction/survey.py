"""The preflight of a checkpoint: what there is to save, and whether the save can succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shim.config import Defaults
from shim.cuda import driver, inventory
from shim.cuda.engine import Parked
from shim.cuda.group import CudaGroup
from shim.cuda.inventory import Inventory
from shim.errors import CryoError, Impossible, Refused
from shim.host.both import both
from shim.model import CudaMode, EngineName
from shim.oci.atomic_volumes import data_folders
from shim.runsc.output import GuestProcess
from shim.transaction import builds, connections, memory, pod_file_checks, preflight, questions
from shim.transaction.connections import Connected
from shim.transaction.execs import ExecCheck
from shim.transaction.judge import Judge, measure_disk
from shim.transaction.questions import Question
from shim.transaction.steps import Steps, choose, engine_for, group_for, look
from shim.transaction.target import CheckpointTarget

# What no hook of the containers can change.
_FIRST: tuple[tuple[Question, Callable[[CheckpointTarget], None]], ...] = (
    (questions.CONTAINERS, preflight.check_none_ended),
    (questions.SPEC, preflight.check_manifest),
    (questions.SPEC, preflight.check_terminals),
    (questions.SPEC, lambda target: preflight.check_restorable(target.containers)),
    (questions.NETWORK, preflight.check_network),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What there is to save.

    `steps` is None for a plain checkpoint, without CUDA state. `inside` are the connections that
    are visible inside the sandbox, `image_bytes` is the size that the image has at most, of which
    `device_bytes` are GPU memory that the host does not hold yet.
    `used_gpus` are the UUIDs of those with memory of the sandbox, and `gpu_bytes` is how much that
    is, as far as nvidia-smi knows.
    `data_folders` are those of the volumes of each container, by its id.
    """

    steps: Steps | None
    inventory: Inventory
    inside: Connected
    image_bytes: int
    device_bytes: int
    used_gpus: tuple[str, ...] = ()
    gpu_bytes: int = 0
    data_folders: dict[str, dict[str, str]] = field(default_factory=dict)


class Survey:
    """Examines a sandbox before its checkpoint; its judge says what follows from an answer."""

    def __init__(
        self,
        target: CheckpointTarget,
        policy: Defaults,
        judge: Judge,
        execs: ExecCheck,
        *,
        for_copies: bool,
    ) -> None:
        """Take what was chosen for this checkpoint."""
        self._target = target
        self._policy = policy
        self._judge = judge
        self._execs = execs
        self._for_copies = for_copies
        self._used_gpus: tuple[str, ...] = ()
        self._gpu_bytes = 0

    async def check(self) -> None:
        """Check what no hook of the containers can change.

        Raises:
            CryoError: why the checkpoint cannot succeed.
        """
        with self._judge.about(questions.RUNSC):
            await builds.check_unchanged(self._target)
        for question, check in _FIRST:
            with self._judge.about(question):
                check(self._target)
        with self._judge.about(questions.VOLUMES):
            parts = await pod_file_checks.check_parts(self._target, for_copies=self._for_copies)
            self._judge.warn(*parts)

    async def run(self, folder: Path) -> Findings:
        """Check the rest of what can be checked before a freeze; the image will be in `folder`.

        Raises:
            CryoError: why the checkpoint cannot succeed.
        """
        target = self._target
        wants_cuda = not target.journal.entry.from_park and self._wants_cuda()
        # Before the look, which is a program in the container too.
        listed = await self._list()
        # nvidia-smi on the host takes as long as the look.
        measured, looked = await both(self._measure(folder), self._look(wants_cuda=wants_cuda))
        image_bytes, device_bytes = measured
        steps, gpus, inside = looked
        with self._judge.about(questions.FILES):
            in_use = await pod_file_checks.check_in_use(target, listed, for_copies=self._for_copies)
            self._judge.warn(*in_use)
        paused = bool(target.paused_ids) and not wants_cuda
        if not target.journal.entry.from_park and not wants_cuda:
            with self._judge.about(questions.EXECS):
                await self._execs.look_at(listed, (), paused=paused)
        # The freeze closes the driver's own host sockets: they are counted after it.
        inside = await self._connections(inside, paused=paused, host=steps is None)
        return Findings(
            steps=steps,
            inventory=gpus,
            inside=inside,
            image_bytes=image_bytes,
            device_bytes=device_bytes,
            used_gpus=self._used_gpus,
            gpu_bytes=self._gpu_bytes or sum(target.journal.entry.gpu_bytes.values()),
            data_folders=await asyncio.to_thread(self._data_folders),
        )

    async def _connections(
        self, inside: Connected | None, *, paused: bool, host: bool
    ) -> Connected:
        """Return those that are visible inside the sandbox, once they have been judged."""
        seen = Connected() if inside is None else inside
        with self._judge.about(questions.CONNECTIONS):
            if inside is None:
                seen = await connections.from_inside(self._target, paused=paused)
            policy = self._policy.connections
            self._judge.warn(*await connections.check(self._target, policy, seen, host=host))
        return seen

    async def _look(self, *, wants_cuda: bool) -> tuple[Steps | None, Inventory, Connected | None]:
        """Find what there is to freeze; nothing where the checkpoint is a plain one."""
        with self._judge.about(questions.PROCESSES):
            if self._target.journal.entry.from_park:
                steps, gpus = self._parked()
                return steps, gpus, None
            if wants_cuda:
                await self._judge.resume()
                return await self._cuda()
        return None, Inventory(), None

    def _data_folders(self) -> dict[str, dict[str, str]]:
        kubelet = self._target.config.pods.kubelet
        return {one.container: data_folders(one.spec, kubelet) for one in self._target.members}

    async def _list(self) -> Sequence[list[GuestProcess]]:
        """List the processes of each container; note those of execs."""
        target = self._target
        listed = await asyncio.gather(*(one.guest.ps() for one in target.containers))
        for rows in listed:
            with self._judge.about(questions.EXECS):
                self._judge.warn(*preflight.check_execs(target, rows))
        exec_pids = tuple(row.pid for rows in listed for row in preflight.exec_processes(rows))
        target.journal.note(exec_processes=exec_pids)
        return listed

    async def _measure(self, folder: Path) -> tuple[int, int]:
        """Check that there is room for the image; return its size, and that of its GPU memory."""
        measuring = measure_disk(self._target, folder)
        device_bytes, disk = await both(self._device_bytes(), measuring)
        image_bytes = preflight.expected_bytes(disk, device_bytes)
        with self._judge.about(questions.DISK):
            disk = await self._judge.make_room(image_bytes, folder, disk)
            preflight.check_disk(disk, image_bytes)
        with self._judge.about(questions.MEMORY):
            preflight.check_memory(self._target, device_bytes)
        return image_bytes, device_bytes

    async def _device_bytes(self) -> int:
        if not self._target.with_gpu:
            return 0
        try:
            in_use = await memory.bytes_in_use(self._target)
        except CryoError as error:
            with self._judge.about(questions.MEMORY):
                text = f"GPU memory is not included in the estimated image size: {error}"
                self._judge.warn(text)
            return 0
        self._used_gpus = tuple(sorted(in_use))
        self._gpu_bytes = sum(in_use.values())
        return self._gpu_bytes

    def _wants_cuda(self) -> bool:
        mode, gpu = self._policy.cuda, bool(self._target.with_gpu)
        if mode is CudaMode.IGNORE:
            if gpu:
                with self._judge.about(questions.PROCESSES):
                    self._judge.warn("--cuda ignore: GPU state is neither saved nor protected")
            return False
        if mode is CudaMode.REQUIRE and not gpu:
            message = f"task {self._target.ref} has no GPU, and --cuda require needs one"
            raise Impossible(message, remedy="leave out --cuda require")
        return gpu

    def _parked(self) -> tuple[Steps | None, Inventory]:
        """Take the frozen processes from the journal: no look can find them."""
        target = self._target
        gpus = inventory.read(target.config.cuda.nvidia_proc)
        entry = target.journal.entry
        facts = driver.capabilities(gpus.driver)
        group = group_for([(target, entry.cuda_processes())], facts, self._judge.report)
        self._execs.take_parked(group.known, entry.execs, entry.execs_unclear)
        if self._policy.engine is EngineName.BUILTIN:
            self._judge.warn(
                "the task is parked: its frozen processes are saved as with engine phased"
            )
        return Steps(engine=Parked(), processes=group) if group.known else None, gpus

    async def _cuda(self) -> tuple[Steps | None, Inventory, Connected | None]:
        """Find the CUDA processes and choose the engine; without any the checkpoint is a plain one.

        The connections are None where the look could not list them.
        """
        target = self._target
        gpus = inventory.read(target.config.cuda.nvidia_proc)
        facts = driver.capabilities(gpus.driver)
        preflight.check_namespaces(target.with_gpu)
        group = group_for([(one, ()) for one in target.with_gpu], facts, self._judge.report)
        await look(group, otherwise="--cuda ignore skips this check")
        for mover in group.movers:
            with self._judge.about(questions.DEVICES):
                others = mover.table.non_cuda_holders
                self._judge.warn(*preflight.check_non_cuda_holders(target, others))
        inside = _connected(group)
        with self._judge.about(questions.EXECS):
            await self._execs.look(group.known, paused=False)
        if not group.known:
            self._check_none_required()
            return None, gpus, inside
        self._judge.warn(*facts.warnings, *self._judge.host_warnings())
        name = EngineName.PHASED
        with self._judge.about(questions.ENGINE):
            name = choose(target, self._engine(), group, facts)
        target.journal.note(engine=name)
        target.journal.processes(group.known)
        return Steps(engine=engine_for(target, name, group), processes=group), gpus, inside

    def _engine(self) -> EngineName:
        """Return the requested engine, or phased where processes are left out of the image.

        Raises:
            Refused: runsc's own was requested, which thaws all that it finds or fails the restore.
        """
        if not self._execs.dropped:
            return self._policy.engine
        if self._policy.engine is EngineName.BUILTIN:
            message = "runsc's own engine cannot leave out what an exec has started"
            raise Refused(message, remedy="use --engine phased")
        return EngineName.PHASED

    def _check_none_required(self) -> None:
        if self._policy.cuda is CudaMode.REQUIRE:
            message = f"no CUDA process was found in task {self._target.ref}"
            raise Refused(message, remedy="wait until it uses the GPU, or leave out --cuda require")


def _connected(group: CudaGroup) -> Connected | None:
    """Return the TCP connections that the look for CUDA processes has listed."""
    scans = [mover.table.last_scan for mover in group.movers]
    listed = [scan for scan in scans if scan and scan.has_tcp]
    if not listed:
        return None
    return Connected(tcp=tuple(dict.fromkeys(peer for scan in listed for peer in scan.tcp)))
