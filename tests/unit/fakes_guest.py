"""The inside of a container, in memory: CUDA processes, their states, a tool, and faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shim.errors import DeadlineExceeded, NotFound
from shim.model import CudaState
from shim.runsc.command_exec import Process
from shim.runsc.output import GuestProcess
from shim.runsc.run import Completed

TOOL = "/dev/cryo/cuda-checkpoint"
DEVICE = "/dev/nvidiactl"
# A program that a hook runs, with the hook's name as its argument.
HOOK = "/bin/hook"
OK = Completed(status=0, stdout=b"", stderr=b"")

_FROM = {
    "lock": CudaState.RUNNING,
    "checkpoint": CudaState.LOCKED,
    "restore": CudaState.CHECKPOINTED,
    "unlock": CudaState.LOCKED,
}
_TO = {
    "lock": CudaState.LOCKED,
    "checkpoint": CudaState.CHECKPOINTED,
    "restore": CudaState.LOCKED,
    "unlock": CudaState.RUNNING,
}
_TOGGLED = {
    CudaState.RUNNING: CudaState.CHECKPOINTED,
    CudaState.CHECKPOINTED: CudaState.RUNNING,
}


def failed(words: str, status: int = 1) -> Completed:
    """Make what a program leaves that refused."""
    return Completed(status=status, stdout=b"", stderr=f"{words}\n".encode())


def says(text: str) -> Completed:
    """Make what a program leaves that printed something."""
    return Completed(status=0, stdout=text.encode(), stderr=b"")


@dataclass
class Cuda:
    """A process; without a state it holds the device all the same (NVML)."""

    pid: int
    name: str = "train"
    state: CudaState | None = CudaState.RUNNING
    parent: int = 1

    @property
    def holds(self) -> bool:
        """The driver closes the devices of a frozen process."""
        return self.state is not CudaState.CHECKPOINTED


@dataclass
class Fault:
    """What goes wrong, `times` times: an answer, a hang, a lie about success, or a deed."""

    answer: Completed | None = None
    hang: bool = False
    lie: CudaState | None = None
    deed: Callable[[], None] | None = None
    times: int = 1


@dataclass
class FakeGuest:
    """A container whose tool is asked by `run`, as the real one is.

    `faults` are found by (verb, pid) with the verbs of `--action`, and `get-state`, `toggle`,
    `scan`, `ps` (pid 0). `done` is what was done, in order.
    """

    processes: list[Cuda] = field(default_factory=list)
    shell: bool = True
    lsof: bool = False
    tool: bool = True
    tcp: tuple[str, ...] = ()
    execs: tuple[GuestProcess, ...] = ()
    calls: list[list[str]] = field(default_factory=list)
    done: list[tuple[str, int]] = field(default_factory=list)
    timeouts: list[tuple[str, float]] = field(default_factory=list)
    faults: dict[tuple[str, int], Fault] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    settle_calls: int = 0
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    paused: bool = False
    # The process object of the last run.
    as_process: Process | None = None
    # Whether the container's own numbers can be had.
    numbered: bool = True
    running_now: int = 0
    most_at_once: int = 0

    # -- for tests -----------------------------------------------------------------------------

    def state(self, pid: int) -> CudaState | None:
        return self._process(pid).state

    @property
    def states(self) -> list[CudaState | None]:
        return [process.state for process in self.processes]

    def gone(self, pid: int) -> Callable[[], None]:
        """Make a deed: that process exits."""

        def deed() -> None:
            self.processes[:] = [p for p in self.processes if p.pid != pid]

        return deed

    def appears(self, pid: int, name: str = "late") -> Callable[[], None]:
        """Make a deed: another process begins to use CUDA."""
        return lambda: self.processes.append(Cuda(pid, name))

    def verbs(
        self, *, without: frozenset[str] = frozenset({"get-state", "scan", "ps"})
    ) -> list[str]:
        return [verb for verb, _ in self.done if verb not in without]

    # -- Guest ---------------------------------------------------------------------------------

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, process: Process | None = None
    ) -> Completed:
        self.calls.append(list(argv))
        self.as_process = process
        self.running_now += 1
        self.most_at_once = max(self.most_at_once, self.running_now)
        try:
            await asyncio.sleep(0)
            return await self._run(list(argv), timeout_s)
        finally:
            self.running_now -= 1

    async def ps(self) -> list[GuestProcess]:
        await self._fault("ps", 0, 1.0)
        rows = [GuestProcess(pid=1, parent=0, command="init")]
        rows += [GuestProcess(pid=p.pid, parent=p.parent, command=p.name) for p in self.processes]
        return [*{row.pid: row for row in [*rows, *self.execs]}.values()]

    async def own_numbers(self, rows: list[GuestProcess]) -> dict[int, int] | None:
        return {row.pid: row.pid for row in rows} if self.numbered else None

    async def has(self, pid: int) -> bool:
        return any(row.pid == pid for row in await self.ps())

    async def end(self, pid: int) -> None:
        self.ended.append(pid)
        self.execs = tuple(row for row in self.execs if row.pid != pid)

    async def settle(self) -> None:
        self.settle_calls += 1

    # -- inside --------------------------------------------------------------------------------

    async def _run(self, argv: list[str], timeout_s: float) -> Completed:
        if self.paused:
            return failed('cannot execute in container "a+" in state paused', 128)
        if argv[0] == "/bin/sh":
            return await self._scan(self.shell, self._shell_lines, timeout_s)
        if argv[0] == "lsof":
            return await self._scan(self.lsof, self._lsof_lines, timeout_s)
        if argv[0] == HOOK:
            self.done.append((argv[1], 0))
            return await self._fault(argv[1], 0, timeout_s) or OK
        if argv[0] != TOOL or not self.tool:
            message = f"the image has no program {argv[0]}"
            raise NotFound(message)
        verb = argv[2] if argv[1] == "--action" else argv[1].removeprefix("--")
        return await self._cuda(verb, int(argv[argv.index("--pid") + 1]), timeout_s)

    async def _scan(
        self, there: bool, lines: Callable[[], list[str]], timeout_s: float
    ) -> Completed:
        if not there:
            message = "the image has no such program"
            raise NotFound(message)
        return await self._fault("scan", 0, timeout_s) or says("\n".join(lines()) + "\n")

    def _shell_lines(self) -> list[str]:
        lines = ["N 1 init"]
        for process in self.processes:
            lines += [f"F {process.pid} {DEVICE}"] if process.holds else []
            lines += [f"C {process.pid}"] if process.state and process.holds else []
            lines += [f"N {process.pid} {process.name}"]
        return [*lines, *(f"T {row}" for row in self.tcp), "E"]

    def _lsof_lines(self) -> list[str]:
        rows = ([f"p{p.pid}", f"c{p.name}", "f3", f"n{DEVICE}"] for p in self.processes if p.holds)
        return [line for row in rows for line in row]

    async def _cuda(self, verb: str, pid: int, timeout_s: float) -> Completed:
        self.timeouts.append((verb, timeout_s))
        fault = self.faults.get((verb, pid))
        lie = fault.lie if fault is not None and fault.times > 0 else None
        answer = await self._fault(verb, pid, timeout_s)
        if answer is not None:
            return answer
        process = next((p for p in self.processes if p.pid == pid), None)
        if process is None or process.state is None:
            return failed("initialization error")
        if verb == "get-state":
            return says(f"{process.state}\n")
        if lie is not None:
            process.state = lie
            return OK
        return self._act(verb, process)

    def _act(self, verb: str, process: Cuda) -> Completed:
        if verb == "toggle":
            if process.state not in _TOGGLED:
                return failed("invalid argument")
            process.state = _TOGGLED[process.state]
        elif process.state is not _FROM[verb]:
            return failed("invalid argument")
        else:
            process.state = _TO[verb]
        self.done.append((verb, process.pid))
        return OK

    async def _fault(self, verb: str, pid: int, timeout_s: float) -> Completed | None:
        if verb in {"get-state", "scan", "ps"}:
            self.done.append((verb, pid))
        fault = self.faults.get((verb, pid))
        if fault is None or fault.times <= 0:
            return None
        fault.times -= 1
        if fault.deed is not None:
            fault.deed()
        if fault.hang:
            await self._hang(verb, timeout_s)
        return fault.answer

    async def _hang(self, verb: str, timeout_s: float) -> None:
        self.hanging.set()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.Event().wait()
        except TimeoutError as error:
            message = f"{verb} did not end in {timeout_s:g} s"
            raise DeadlineExceeded(message) from error

    def _process(self, pid: int) -> Cuda:
        return next(process for process in self.processes if process.pid == pid)
