"""cuda-checkpoint of driver 550: `--toggle` alone, no states to ask for.

Whether a process is frozen shows in the guest: the driver closes a frozen process's devices. The
two half-way states exist only in our books, so the same four moves fit this tool too.
"""

from __future__ import annotations

from collections.abc import Mapping

from shim.cuda import detect
from shim.cuda.guest import Guest
from shim.cuda.moves import AFTER, Action
from shim.cuda.tool import refusal, said
from shim.errors import DeadlineExceeded
from shim.model import CudaState

_TOGGLES = frozenset({Action.CHECKPOINT, Action.RESTORE})


class ToggleTool:
    """The same moves as `shim.cuda.tool.Tool`, made of toggles and looks."""

    def __init__(self, guest: Guest, path: str, known: frozenset[int] = frozenset()) -> None:
        self._guest = guest
        self.path = path
        self._booked: dict[int, CudaState] = {}
        self._known = known

    async def state(self, pid: int, *, timeout_s: float) -> CudaState | None:
        """Tell a process's state from our books, else from the devices it holds."""
        if pid in self._booked:
            return self._booked[pid]
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
        """Toggle where the move changes the device; note the others.

        Raises:
            DeadlineExceeded, ResourceExhausted, CudaError: as `Tool.act`.
        """
        del device_map  # 580 on
        if action in _TOGGLES:
            try:
                await self._toggle(action, pid, timeout_s)
            except BaseException:
                self._doubt(pid)
                raise
        self._booked[pid] = AFTER[action]

    def _doubt(self, pid: int) -> None:
        """Believe its devices from now on: a tool that was ended may have done its work."""
        self._booked.pop(pid, None)
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
            raise refusal(action, pid, said(done))
