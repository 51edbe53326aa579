"""cuda-checkpoint of driver 550, which has `--toggle` alone and reports no states.

Whether a process is frozen is visible in the guest: the driver closes its devices. `locked` exists
only in this object, so that the same four moves work with this tool too.
"""

from __future__ import annotations

from collections.abc import Mapping

from shim.cuda import detect
from shim.cuda.guest import Guest
from shim.cuda.moves import AFTER, Action
from shim.cuda.tool import last_line, move_error
from shim.errors import DeadlineExceeded
from shim.model import CudaState

_TOGGLES = frozenset({Action.CHECKPOINT, Action.RESTORE})


class ToggleTool:
    """The moves of `shim.cuda.tool.Tool`, by toggles and by the devices that processes hold."""

    def __init__(self, guest: Guest, path: str, known: frozenset[int] = frozenset()) -> None:
        self._guest = guest
        self.path = path
        self._states: dict[int, CudaState] = {}
        self._known = known

    async def state(self, pid: int, *, timeout_s: float) -> CudaState | None:
        """Return the state after the last move, else that which the devices held show."""
        if pid in self._states:
            return self._states[pid]
        found = await detect.scan(self._guest, timeout_s=timeout_s, may_ask=False)
        if any(holder.pid == pid and holder.driver_thread for holder in found.holders):
            return CudaState.RUNNING
        return CudaState.CHECKPOINTED if pid in self._known and pid in found.pids else None

    async def act(
        self,
        action: Action,
        pid: int,
        *,
        timeout_s: float,
        device_map: Mapping[str, str] | None = None,
    ) -> None:
        """Toggle where the move changes the device; only record the other moves.

        Raises:
            DeadlineExceeded, ResourceExhausted, CudaError: as `Tool.act`.
        """
        del device_map  # 580 on
        if action in _TOGGLES:
            try:
                await self._toggle(action, pid, timeout_s)
            except BaseException:
                self._forget_state(pid)
                raise
        self._states[pid] = AFTER[action]

    def _forget_state(self, pid: int) -> None:
        """Go by its devices from now on: a tool that was killed may have done its work."""
        self._states.pop(pid, None)
        self._known |= {pid}

    async def _toggle(self, action: Action, pid: int, timeout_s: float) -> None:
        try:
            done = await self._guest.run(
                [self.path, "--toggle", "--pid", str(pid)], timeout_s=timeout_s
            )
        except DeadlineExceeded as error:
            message = f"cuda-checkpoint --toggle on process {pid} did not end in {timeout_s:g} s"
            raise DeadlineExceeded(
                message, remedy="driver 550 has no lock timeout; 570 has"
            ) from error
        if done.status != 0:
            raise move_error(action, pid, last_line(done))
