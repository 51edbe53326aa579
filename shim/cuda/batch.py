"""cryo-cuda's batch mode: all CUDA processes of a container in one run of a program inside it.

Its output is untrusted: one JSON object per line, version 1 of `native/batch.c`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shim.cuda.detect import Holder, Scan, leaves_sandbox, parse_address
from shim.cuda.guest import Guest
from shim.errors import CudaError, NotFound, Unavailable
from shim.model import CudaState, Value
from shim.runsc.run import Completed

VERSION = 1
PIDS_MAX = 256
_MAX_PID = 1 << 22
_HOLDERS_MAX = 4096
_TEXT_MAX = 200
_TOOK_MAX_MS = 1 << 32  # untrusted, and must fit into a Duration
# Added to the program's own timeouts, for its start and its output.
_GRACE_S = 10.0
_REMEDY = 'set cuda.helper = "never" to use cuda-checkpoint instead'


class Line(Value):
    """One line of output; which of the fields are set depends on `step`."""

    step: str = ""
    cryo_cuda: int = 0
    pid: int = 0
    ok: bool = False
    state: str = ""
    late: bool = False
    gone: bool = False
    ms: int = -1
    text: str = ""
    comm: str = ""
    device: str = ""
    thread: bool = False
    remote: str = ""


class Move(Value):
    """The outcome of one move, or of reading a state.

    `state` is None where it could not be read. `late`: the call did not return within its
    timeout; `gone`: the process has exited; `reason`: the driver's error text; `took_s`: the
    duration of the call and of the read of the state after it.
    """

    step: str
    pid: int
    ok: bool
    state: CudaState | None = None
    late: bool = False
    gone: bool = False
    reason: str = ""
    took_s: float = 0.0


class BatchOutput(Value):
    """The output of one run; moves are in the order in which they were made."""

    moves: tuple[Move, ...] = ()
    holders: tuple[Holder, ...] = ()
    tcp: tuple[str, ...] = ()

    def states(self) -> dict[int, CudaState]:
        """Return the last state that was read of each process."""
        return {move.pid: move.state for move in self.moves if move.state is not None}


_DECODER = msgspec.json.Decoder(Line)


def parse(done: Completed) -> BatchOutput:
    """Parse the output of one run.

    Raises:
        Unavailable: the program did not run, has another version, or found no driver.
        CudaError: it exited early, or reported too many processes.
    """
    lines = _lines(done)
    if not lines or lines[0].cryo_cuda != VERSION:
        message = f"cryo-cuda cannot be used in the container: {_summary(done)}"
        raise Unavailable(message, remedy=_REMEDY)
    begun = [line for line in lines if line.step == "init"]
    if begun and not begun[0].ok:
        message = f"cryo-cuda found no usable driver in the container: {_bounded(begun[0].text)}"
        raise Unavailable(message, remedy=_REMEDY)
    if lines[-1].step != "end" or not lines[-1].ok:
        message = f"cryo-cuda exited early in the container: {_summary(done)}"
        raise CudaError(message, remedy=_REMEDY)
    return BatchOutput(
        moves=tuple(_move(line) for line in lines if _is_move(line)),
        holders=_holders(lines),
        tcp=tuple(sorted({line.remote for line in lines if line.step == "tcp"})),
    )


def _lines(done: Completed) -> list[Line]:
    try:
        return [_DECODER.decode(raw) for raw in done.stdout.splitlines()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _summary(done: Completed) -> str:
    text = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return _bounded(text[0]) if text else f"exit status {done.status}"


def _bounded(text: str) -> str:
    return text[:_TEXT_MAX]


def _is_move(line: Line) -> bool:
    return line.step in {"state", "lock", "checkpoint", "restore", "unlock"} and _is_pid(line.pid)


def _is_pid(pid: int) -> bool:
    return 0 < pid < _MAX_PID


def _move(line: Line) -> Move:
    known = {state.value: state for state in CudaState}
    if line.state and line.state not in known:
        state = _bounded(repr(line.state))
        message = f"cryo-cuda returned an unknown state for process {line.pid}: {state}"
        raise CudaError(message, pid=line.pid, remedy="check that this release supports the driver")
    return Move(
        step=line.step,
        pid=line.pid,
        ok=line.ok,
        state=known.get(line.state),
        late=line.late,
        gone=line.gone,
        reason=_bounded(line.text) or "no reason was given",
        took_s=min(max(line.ms, 0), _TOOK_MAX_MS) / 1000,
    )


def _holders(lines: Sequence[Line]) -> tuple[Holder, ...]:
    found = {line.pid: line for line in lines if line.step == "scan" and _is_pid(line.pid)}
    if len(found) > _HOLDERS_MAX:
        message = f"more than {_HOLDERS_MAX} processes hold a GPU device"
        raise CudaError(message, remedy="stop some of them, or use --cuda ignore")
    return tuple(
        Holder(
            pid=pid,
            name=_bounded(line.comm)[:64],
            devices=frozenset({_bounded(line.device)[:64]}),
            driver_thread=line.thread,
        )
        for pid, line in sorted(found.items())
    )


class Helper:
    """Runs cryo-cuda inside one container. Timeouts are in seconds, one for each kind of move."""

    def __init__(self, guest: Guest, path: str) -> None:
        self._guest = guest
        self.path = path

    async def find(self, *, detect_s: float) -> tuple[Scan, BatchOutput]:
        """Find the processes that hold a device, and read the state of each.

        Raises:
            Unavailable: it cannot be used in this container; cuda-checkpoint may work.
            DeadlineExceeded: it did not exit in time.
            CudaError: it exited early.
        """
        # The timeout applies to the driver's initialization and again to the states.
        found = await self._run("find", [], detect_s, detect_s=detect_s)
        remotes = {parse_address(text) for text in found.tcp}
        tcp = tuple(sorted(one for one in remotes if one and leaves_sandbox(one)))
        return Scan(method="helper", holders=found.holders, tcp=tcp), found

    async def states(self, pids: Iterable[int], *, detect_s: float) -> BatchOutput:
        """Read the states of some processes.

        Raises:
            Unavailable, DeadlineExceeded, CudaError: as `find`.
        """
        return await self._run("states", pids, detect_s, detect_s=detect_s)

    async def freeze(
        self, pids: Iterable[int], *, detect_s: float, lock_s: float, freeze_s: float
    ) -> BatchOutput:
        """Lock all of these, then checkpoint all, from whatever state; report new ones.

        No process is checkpointed unless all are locked and there is no new one.

        Raises:
            Unavailable, DeadlineExceeded, CudaError: as `find`.
        """
        return await self._run(
            "freeze",
            pids,
            detect_s + lock_s + freeze_s,
            detect_s=detect_s,
            lock_s=lock_s,
            step_s=freeze_s,
        )

    async def thaw(
        self,
        pids: Iterable[int],
        *,
        detect_s: float,
        thaw_s: float,
        device_map: Mapping[str, str] | None = None,
    ) -> BatchOutput:
        """Restore all of these, then unlock all; one that fails does not stop the others.

        Raises:
            Unavailable, DeadlineExceeded, CudaError: as `find`.
        """
        extra: list[str] = []
        if device_map:
            pairs = ",".join(f"{old}={new}" for old, new in sorted(device_map.items()))
            extra = ["--device-map", pairs]
        return await self._run(
            "thaw", pids, detect_s + 2 * thaw_s, *extra, detect_s=detect_s, step_s=thaw_s
        )

    async def _run(
        self, verb: str, pids: Iterable[int], total_s: float, *extra: str, **limits_s: float
    ) -> BatchOutput:
        argv = [self.path, "--batch", verb, *extra]
        chosen = sorted(pids)
        if len(chosen) > PIDS_MAX:
            message = f"cryo-cuda takes at most {PIDS_MAX} processes at once"
            raise Unavailable(message, remedy=_REMEDY)
        if chosen:
            argv += ["--pids", ",".join(map(str, chosen))]
        options = {"detect_s": "--detect-ms", "lock_s": "--timeout", "step_s": "--step-ms"}
        for name, limit_s in limits_s.items():
            argv += [options[name], str(max(1, int(limit_s * 1000)))]
        # `detect` also limits the driver's initialization and the second scan of a freeze.
        timeout_s = total_s + 2 * limits_s["detect_s"] + _GRACE_S
        try:
            done = await self._guest.run(argv, timeout_s=timeout_s)
        except NotFound as error:
            message = f"cryo-cuda is not in the container: {error.message}"
            raise Unavailable(message, remedy=_REMEDY) from error
        return parse(done)
