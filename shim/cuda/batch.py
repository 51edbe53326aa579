"""cryo-cuda's batch mode: all CUDA processes of a container in one run of a program inside it.

What it prints is untrusted: JSON objects, one a line, version 1 of `native/batch.c`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shim.cuda.detect import Holder, Scan, leaves, parse_address
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
# What the program gets on top of its own deadlines, for its start and what it prints.
_GRACE_S = 10.0
_REMEDY = 'set cuda.helper = "never" to use cuda-checkpoint in its place'


class Line(Value):
    """One line; `step` says which of the others mean something."""

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
    """What became of one move, or of one look at a state.

    `state` is None where it could not be read. `late` is a call that had not ended at its
    deadline, `gone` a process that is not there any more, `words` what the driver said, `took_s`
    how long the call and the look that follows it took.
    """

    step: str
    pid: int
    ok: bool
    state: CudaState | None = None
    late: bool = False
    gone: bool = False
    words: str = ""
    took_s: float = 0.0


class Found(Value):
    """Everything that one run told, in the order of its moves."""

    moves: tuple[Move, ...] = ()
    holders: tuple[Holder, ...] = ()
    tcp: tuple[str, ...] = ()

    def states(self) -> dict[int, CudaState]:
        """Return the last state that was read of each process."""
        return {move.pid: move.state for move in self.moves if move.state is not None}


_DECODER = msgspec.json.Decoder(Line)


def parse(done: Completed) -> Found:
    """Read what one run printed.

    Raises:
        Unavailable: the program did not run, or is none of this version, or has no driver.
        CudaError: it broke off, or told of more than we keep.
    """
    lines = _lines(done)
    if not lines or lines[0].cryo_cuda != VERSION:
        message = f"cryo-cuda cannot be used in the container: {_said(done)}"
        raise Unavailable(message, remedy=_REMEDY)
    begun = [line for line in lines if line.step == "init"]
    if begun and not begun[0].ok:
        message = f"cryo-cuda found no usable driver in the container: {_bounded(begun[0].text)}"
        raise Unavailable(message, remedy=_REMEDY)
    if lines[-1].step != "end" or not lines[-1].ok:
        message = f"cryo-cuda broke off in the container: {_said(done)}"
        raise CudaError(message, remedy=_REMEDY)
    return Found(
        moves=tuple(_move(line) for line in lines if _is_move(line)),
        holders=_holders(lines),
        tcp=tuple(sorted({line.remote for line in lines if line.step == "tcp"})),
    )


def _lines(done: Completed) -> list[Line]:
    try:
        return [_DECODER.decode(raw) for raw in done.stdout.splitlines()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def _said(done: Completed) -> str:
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
        raise CudaError(message, pid=line.pid, remedy="check that the driver is one we know")
    return Move(
        step=line.step,
        pid=line.pid,
        ok=line.ok,
        state=known.get(line.state),
        late=line.late,
        gone=line.gone,
        words=_bounded(line.text) or "no reason was given",
        took_s=min(max(line.ms, 0), _TOOK_MAX_MS) / 1000,
    )


def _holders(lines: Sequence[Line]) -> tuple[Holder, ...]:
    found = {line.pid: line for line in lines if line.step == "scan" and _is_pid(line.pid)}
    if len(found) > _HOLDERS_MAX:
        message = f"more than {_HOLDERS_MAX} processes hold a GPU device"
        raise CudaError(message, remedy="end some, or use --cuda ignore")
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
    """Runs cryo-cuda inside one container. Times are in seconds; each kind of move has its own."""

    def __init__(self, guest: Guest, path: str) -> None:
        self._guest = guest
        self.path = path

    async def find(self, *, detect_s: float) -> tuple[Scan, Found]:
        """Look who holds a device, and ask each of them for its state.

        Raises:
            Unavailable: it cannot be used here; cuda-checkpoint may.
            DeadlineExceeded: it did not end in time.
            CudaError: it broke off.
        """
        # Its own deadline holds for the driver's start and again for the states.
        found = await self._run("find", [], detect_s, detect_s=detect_s)
        tcp = tuple(filter(None, (parse_address(text) for text in found.tcp)))
        scan = Scan(method="helper", holders=found.holders, tcp=outside(tcp))
        return scan, found

    async def states(self, pids: Iterable[int], *, detect_s: float) -> Found:
        """Ask for the states of some processes.

        Raises:
            Unavailable, DeadlineExceeded, CudaError: as `find`.
        """
        return await self._run("states", pids, detect_s, detect_s=detect_s)

    async def freeze(
        self, pids: Iterable[int], *, detect_s: float, lock_s: float, freeze_s: float
    ) -> Found:
        """Lock all of these, then checkpoint all, whatever state each is in; tell who is new.

        Nobody is checkpointed while one is not locked, or somebody new is there.

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
    ) -> Found:
        """Restore all of these, then unlock all; one that does not come back keeps no other.

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
    ) -> Found:
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
        # The driver's start is under `detect` too, and so is the second look of a freeze.
        timeout_s = total_s + 2 * limits_s["detect_s"] + _GRACE_S
        try:
            done = await self._guest.run(argv, timeout_s=timeout_s)
        except NotFound as error:
            message = f"cryo-cuda is not in the container: {error.message}"
            raise Unavailable(message, remedy=_REMEDY) from error
        return parse(done)


def outside(addresses: Iterable[str]) -> tuple[str, ...]:
    """Keep the connections that leave the sandbox."""
    return tuple(sorted({address for address in addresses if leaves(address)}))
