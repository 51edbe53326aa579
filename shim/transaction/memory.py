"""GPU memory that a sandbox holds, and that is free, according to nvidia-smi on the host."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from shim.config import Config
from shim.cuda import inventory
from shim.errors import ResourceExhausted, Unavailable
from shim.runsc.run import run
from shim.transaction.target import CheckpointTarget


async def bytes_in_use(target: CheckpointTarget) -> dict[str, int]:
    """Return how many bytes the processes of the sandbox hold together, by GPU UUID.

    Raises:
        CryoError: nvidia-smi fails.
    """
    cuda = target.config.cuda
    return await inventory.bytes_by_gpu(cuda.nvidia_smi, _spawn(target.config), target.sandbox.pid)


async def check_free(target: CheckpointTarget, needed: Mapping[str, int]) -> None:
    """Check that the sandbox can have this much GPU memory, including what it holds already.

    Raises:
        ResourceExhausted: a GPU has too little left.
        CryoError: nvidia-smi fails.
    """
    now = await bytes_in_use(target)
    free = await free_bytes(target.config)
    for gpu, count in needed.items():
        missing = count - now.get(gpu, 0)
        if missing > free.get(gpu, missing):
            message = f"{gpu} has {free[gpu] >> 20} MiB free, and {missing >> 20} MiB are needed"
            raise ResourceExhausted(message, remedy="free GPU memory, then resume the task")


async def free_bytes(config: Config) -> dict[str, int]:
    """Return how many bytes are free on each GPU, by UUID.

    Raises:
        CryoError: nvidia-smi fails.
    """
    return await inventory.free_bytes(config.cuda.nvidia_smi, _spawn(config))


async def without_persistence(config: Config) -> tuple[str, ...]:
    """List the UUIDs of the GPUs whose persistence mode is off.

    Raises:
        CryoError: nvidia-smi fails.
    """
    return await inventory.without_persistence(config.cuda.nvidia_smi, _spawn(config))


def _spawn(config: Config) -> inventory.Spawn:
    return partial(_ask, config.timeouts.command)


async def _ask(timeout_s: float, argv: list[str]) -> str:
    done = await run(argv, timeout_s=timeout_s)
    if done.status != 0:
        message = f"{argv[0]} exited with status {done.status}"
        raise Unavailable(message)
    return done.stdout.decode("utf-8", "replace")
