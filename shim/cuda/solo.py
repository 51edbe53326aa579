"""The CUDA processes of a sandbox of which one container has any, moved by cryo-cuda.

All of them are locked, and frozen when all are, in one run; likewise back. So nobody else may have
to be locked in between: several containers are a plain `Fleet`.
"""

from __future__ import annotations

from shim.cuda.batched import Batched
from shim.cuda.fleet import Fleet, raise_first


class Solo(Fleet):
    """As `Fleet`, of one container and by few runs; step by step where cryo-cuda is of no use."""

    def __init__(self, only: Batched) -> None:
        super().__init__([only])
        self._only = only

    async def freeze_once(self) -> bool:
        """Lock all, then checkpoint all that are known; return whether a look finds no other.

        Raises:
            CudaError, DeadlineExceeded: as `freeze`.
        """
        done = await self._only.freeze_at_once()
        if done is not None:
            return done
        # It may have moved them all, and only its word be lost.
        raise_first(await self.refresh())
        return await super().freeze_once()

    async def thaw(self) -> None:
        """Bring every known process back to running; one that cannot be does not stop the others.

        Raises:
            CudaError, DeadlineExceeded, ResourceExhausted: the first that did not come back.
        """
        if not await self._only.thaw_at_once():
            await super().thaw()
