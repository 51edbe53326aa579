"""cuda-checkpoint, run inside the container on one process at a time. Its output is untrusted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from shim.cuda.guest import Guest
from shim.cuda.moves import Action
from shim.errors import CryoError, CudaError, DeadlineExceeded, ResourceExhausted
from shim.model import CudaState
from shim.runsc.run import Completed

_MEMORY = re.compile(r"out of memory", re.IGNORECASE)
# CUDA_ERROR_NOT_READY: the driver gave up a lock at its own timeout.
_NOT_READY = re.compile(r"not ready", re.IGNORECASE)
_LINE_MAX = 200
# Added to the driver's lock timeout before the tool is killed.
_GRACE_S = 5.0
# From this status on the tool did not run: not executable, no library, killed, or runsc's 128.
_NOT_RUN = 126
STUCK = (
    "a kernel may still run, or NCCL may wait for a peer; "
    "raise its deadline under [timeouts] in config.toml"
)

_FAILED = "look at the task's log and the driver's (dmesg), then try again"


class Features(Protocol):
    """Options of the driver's cuda-checkpoint (`shim.cuda.driver.DriverFacts`)."""

    @property
    def lock_timeout(self) -> bool:
        """Whether it has `--timeout` (570 on)."""

    @property
    def device_map(self) -> bool:
        """Whether it has `--device-map` (580 on)."""


_UNUSABLE = "see that libcuda.so.1 is found in the container; --cuda ignore skips this check"


def last_line(done: Completed) -> str:
    """Return the tool's last line, cut to a bounded length."""
    text = (done.stderr.strip() or done.stdout.strip()).decode("utf-8", "replace")
    last = text.splitlines()[-1] if text else f"exit status {done.status} and no message"
    return last[:_LINE_MAX]


def move_error(
    action: Action, pid: int, reason: str, *, tool: str = "cuda-checkpoint"
) -> CryoError:
    """Return the typed error of a move that failed, by the tool's error text."""
    if action is Action.LOCK and _NOT_READY.search(reason):
        message = f"{tool} could not lock process {pid} in time: {reason}"
        return DeadlineExceeded(message, remedy=STUCK)
    message = f"{tool} could not {action} process {pid}: {reason}"
    if _MEMORY.search(reason):
        return ResourceExhausted(message, remedy="free GPU memory, or use another GPU")
    return CudaError(message, pid=pid, remedy=_FAILED)


class CudaTool(Protocol):
    """What `StepMover` needs of a tool: `Tool`, or `ToggleTool` for driver 550."""

    path: str

    async def state(self, pid: int, *, timeout_s: float) -> CudaState | None:
        """Read a process's state; None when it has none or is gone."""

    async def act(
        self,
        action: Action,
        pid: int,
        *,
        timeout_s: float,
        device_map: Mapping[str, str] | None = None,
    ) -> None:
        """Do one move on one process."""


class Tool:
    """The commands of cuda-checkpoint from driver 555 on."""

    def __init__(self, guest: Guest, path: str, features: Features) -> None:
        self._guest = guest
        self.path = path
        self._features = features

    async def state(self, pid: int, *, timeout_s: float) -> CudaState | None:
        """Read a process's state; None when it has no CUDA state or is gone.

        Raises:
            DeadlineExceeded: the tool did not exit in time; it was killed.
            CudaError: the tool cannot be run, or printed an unknown state.
        """
        done = await self._run("--get-state", pid=pid, timeout_s=timeout_s)
        if not 0 <= done.status < _NOT_RUN:
            message = f"cuda-checkpoint cannot be run in the container: {last_line(done)}"
            raise CudaError(message, pid=pid, remedy=_UNUSABLE)
        if done.status != 0:
            return None
        word = done.stdout.decode("ascii", "replace").strip()
        try:
            return CudaState(word)
        except ValueError as error:
            state = f"{word!r:.{_LINE_MAX}}"
            message = f"cuda-checkpoint returned an unknown state for process {pid}: {state}"
            raise CudaError(message, pid=pid, remedy="check the tool that is injected") from error

    async def act(
        self,
        action: Action,
        pid: int,
        *,
        timeout_s: float,
        device_map: Mapping[str, str] | None = None,
    ) -> None:
        """Do one move on one process.

        Raises:
            DeadlineExceeded: not done in `timeout_s`; the driver gave up or the tool was killed.
            ResourceExhausted: a restore found too little GPU memory.
            CudaError: the tool failed; the message has its error text.
        """
        extra: list[str] = []
        if action is Action.LOCK and self._features.lock_timeout:
            extra = ["--timeout", str(max(1, int(timeout_s * 1000)))]
            timeout_s += _GRACE_S
        if action is Action.RESTORE and device_map and self._features.device_map:
            pairs = ",".join(f"{old}={new}" for old, new in sorted(device_map.items()))
            extra = ["--device-map", pairs]
        done = await self._run("--action", action.value, *extra, pid=pid, timeout_s=timeout_s)
        if done.status == 0:
            return
        raise move_error(action, pid, last_line(done))

    async def _run(self, flag: str, *words: str, pid: int, timeout_s: float) -> Completed:
        argv = [self.path, flag, *words[:1], "--pid", str(pid), *words[1:]]
        try:
            return await self._guest.run(argv, timeout_s=timeout_s)
        except DeadlineExceeded as error:
            what = " ".join([flag, *words[:1]])
            message = f"cuda-checkpoint {what} on process {pid} did not end in {timeout_s:g} s"
            raise DeadlineExceeded(message, remedy=STUCK) from error
