"""A small integration harness: runs a bundle, checkpoints it, and restores it as clones.

    cryo serve &
    python hack/examples/harness.py BUNDLE [--clones 2]

It uses both clients: the blocking one for sequential steps, the asyncio one for parallel restores.
Every error is a class of `shim.errors` with a remedy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator

from shim.client import AsyncClient, Client
from shim.errors import CryoError, NotFound
from shim.model import DEFAULT_ADDRESS, CheckpointOptions, Progress, RestoreOptions
from shim.state import TaskState


def main() -> int:
    """Run the harness; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", help="absolute path of an OCI bundle")
    parser.add_argument("--address", default=DEFAULT_ADDRESS)
    parser.add_argument("--clones", type=int, default=2)
    arguments = parser.parse_args()
    try:
        with Client(arguments.address, namespace="harness") as client:
            image_path = freeze(client, arguments.bundle)
            asyncio.run(bring_back(arguments.address, image_path, arguments.clones))
            client.remove(image_path)
    except CryoError as error:
        print(f"{type(error).__name__}: {error}; {error.remedy}", file=sys.stderr)
        return 1
    return 0


def freeze(client: Client, bundle: str) -> str:
    """Run a bundle, checkpoint and stop it, and return its image."""
    with task(client, "original", bundle):
        client.start("original")
        result = client.checkpoint("original", CheckpointOptions(exit=True), show)
        ended = client.wait("original")
    print(f"{result.image_path}: {result.size_bytes} bytes, {len(result.processes)} GPU processes")
    print(f"the original exited with status {ended.status}")
    return result.image_path


@contextlib.contextmanager
def task(client: Client, name: str, bundle: str) -> Iterator[None]:
    """Create a task, and delete it at the end."""
    client.create(name, bundle)
    try:
        yield
    finally:
        if client.state(name).state is not TaskState.STOPPED:
            with contextlib.suppress(NotFound):
                client.kill(name, signal.SIGKILL, everyone=True)
            client.wait(name)
        client.delete(name)


async def bring_back(address: str, image_path: str, clones: int) -> None:
    """Restore an image several times in parallel, then kill the clones."""
    async with AsyncClient(address, namespace="harness") as client:
        async with asyncio.TaskGroup() as group:
            for number in range(clones):
                group.create_task(clone(client, f"clone-{number}", image_path))
        print("left:", [view.id for view in await client.list()])


async def clone(client: AsyncClient, name: str, image_path: str) -> None:
    """Restore an image as a task, list its processes, and kill it."""
    result = await client.restore(name, RestoreOptions(image_path=image_path))
    print(f"{name}: pid {result.pid}, processes {await client.pids(name)}")
    await client.kill(name, signal.SIGKILL, everyone=True)
    await client.wait(name)
    await client.delete(name)


def show(progress: Progress) -> None:
    """Print warnings and the states of processes."""
    if progress.warning or progress.pid:
        print(f"{progress.phase}: {progress.message} {progress.pid or ''} {progress.pid_state}")


if __name__ == "__main__":
    sys.exit(main())
