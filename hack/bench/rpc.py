"""Latency and throughput of a small call, State: gRPC of the sidecar, ttrpc of a shim and gVisor's.

The latency is that of calls one after another, the throughput that of some at a time. The clients
are ours, in Python, and take a part of the time of each call; for ttrpc it is the same client.
Commands of `cryo`, which make one call or none, are measured as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hack.bench import beat, commands, inside, machine
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.machine import TASK, Machine
from hack.bench.row import Rows, ms, ratio, row
from hack.bench.shim_calls import Bundle, Stopwatch, callers
from hack.bench.shim_node import CRYO, GVISOR, node
from hack.bench.turns import Samples, timed
from shim.simgpu.simulation import Simulation

ROUNDS = 11
CALLS = 200
AT_ONCE = 8
_BUNDLE = "idle"
_IDLE_S = 3600.0


def measure(runsc: Path, effort: Effort) -> Rows:
    """Measure both protocols."""
    with Simulation(runsc) as sim:
        beat.bundle(sim, _BUNDLE, 0, period_s=_IDLE_S)
        machine.start(sim)
        rows = machine.measure(sim, grpc, effort)
    with node(runsc) as here:
        return rows | inside.run(
            here.place.remote, here.containerd.folder, ttrpc, effort, here.given
        )


def grpc(given: Given, effort: Effort) -> Rows:
    """Measure the sidecar."""
    here = Machine(given)
    latency, throughput = [], []
    with here.task(_BUNDLE), ThreadPoolExecutor(AT_ONCE) as pool:

        def one(_: int) -> object:
            return here.client.state(TASK)

        one(0)
        for _ in effort.rounds(ROUNDS, 0.3):
            latency.append(timed(lambda: list(map(one, range(CALLS)))) / CALLS)
            throughput.append(CALLS / timed(lambda: list(pool.map(one, range(CALLS)))))
        rows = commands.measure(given["address"], effort)
    return rows | {
        "rpc.latency.grpc": ms(latency),
        "rpc.throughput.grpc": row(throughput, "calls/s"),
    }


def ttrpc(given: Given, effort: Effort) -> Rows:
    """Measure the shims."""
    return asyncio.run(_ttrpc(given, effort))


async def _ttrpc(given: Given, effort: Effort) -> Rows:
    made = Bundle(Path(given["folder"]) / "rpc", Path(given["busybox"]))
    watch = Stopwatch()
    latency: Samples = {}
    throughput: Samples = {}
    # Both shims use the same bundle, so that only one container runs at a time.
    for name, caller in callers(given, made).items():
        client = await caller.begin(watch, name)
        state = partial(caller.state, client, name)
        try:
            await state()
            for _ in effort.rounds(ROUNDS, 0.3):
                latency.setdefault(name, []).append(await _after_another(state))
                throughput.setdefault(name, []).append(await _at_once(state))
            await caller.end(client, watch, name)
        finally:
            await client.close()
    count = min(map(len, latency.values()))
    ours, theirs = (latency[name][:count] for name in (CRYO, GVISOR))
    return {
        **{f"rpc.latency.ttrpc-{name}": ms(found) for name, found in latency.items()},
        **{
            f"rpc.throughput.ttrpc-{name}": row(found, "calls/s")
            for name, found in throughput.items()
        },
        "rpc.latency.ratio": ratio(ours, theirs),
    }


async def _after_another(state: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Return how long a call takes."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(CALLS):
        await state()
    return (loop.time() - began) / CALLS


async def _at_once(state: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Return how many calls are answered in a second when there are always some."""
    loop = asyncio.get_running_loop()

    async def some() -> None:
        for _ in range(CALLS // AT_ONCE):
            await state()

    began = loop.time()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return CALLS / (loop.time() - began)
