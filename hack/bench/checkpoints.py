"""Compares the time of our checkpoint and restore with that of the plain runsc commands.

    make bench                                  # or: python -m hack.bench.checkpoints --rounds 10

"Ours" is the complete path of a user: client, unix socket, sidecar, runsc. "Plain" is the runsc
command alone. Both alternate on the same container, so that disturbances affect both. Everything
runs on a simulated GPU machine (a private /dev, a temporary directory).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from shim.client import Client
from shim.model import CheckpointOptions, EngineName, RestoreOptions
from shim.simgpu.guest.worker import Settings
from shim.simgpu.simulation import Simulation, environment, wait_until

ROUNDS = 10
RESIDENT_MIB = (0, 256, 1024)
PROCESSES = (1, 2, 4, 8)
SUBREAPER = 36
LIMIT_S = 1500.0
TASK = "bench"


def median_ms(seconds: list[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1000


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Machine:
    """The simulated machine from inside: a client of its sidecar, and plain runsc."""

    def __init__(self, given: dict[str, str]) -> None:
        self.folder = Path(given["folder"])
        self.runsc = given["runsc"]
        self.flags: list[str] = json.loads(given["flags"])
        self.client = Client(given["address"])
        self.bundles = self.folder / "bundles"

    def plain(self, *arguments: str, root: Path | None = None) -> None:
        """Run one runsc command."""
        where = root or self.folder / "state" / "runsc" / "default"
        argv = [self.runsc, f"--root={where}", *self.flags, *arguments]
        # The sandbox keeps the streams of a restore open, so they must not be pipes.
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    @contextmanager
    def task(self, name: str, *, settle_s: float) -> Iterator[None]:
        """Run a task of the bundle `name` and remove it afterwards."""
        self.client.create(TASK, str(self.bundles / name))
        self.client.start(TASK)
        time.sleep(settle_s)
        try:
            yield
        finally:
            self.client.kill(TASK, 9, everyone=True)
            self.client.wait(TASK)
            self.client.delete(TASK)

    def image(self) -> Path:
        """Return the path for an image, after removing the previous one."""
        path = self.folder / "images" / "one"
        shutil.rmtree(path, ignore_errors=True)
        return path


def checkpoints(machine: Machine, mib: int, rounds: int) -> dict[str, list[float]]:
    """Time checkpoints of one container: plain, ours unsealed, ours sealed."""
    found: dict[str, list[float]] = {"plain": [], "unsealed": [], "sealed": [], "seal": []}
    with machine.task(f"resident-{mib}", settle_s=1.0 + mib / 400):
        for number in range(rounds):
            for way in turned(("plain", "unsealed", "sealed"), number):
                path = machine.image()
                if way == "plain":
                    found[way].append(timed(partial(plain_checkpoint, machine, path)))
                    continue
                options = CheckpointOptions(image_path=str(path), seal=way == "sealed")
                began = time.perf_counter()
                result = machine.client.checkpoint(TASK, options)
                found[way].append(time.perf_counter() - began)
                if way == "sealed":
                    found["seal"].append(result.timings_s["seal"])
    return found


def turned(ways: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Rotate the order, since writes that one variant leaves to the disk slow down the next."""
    at = number % len(ways)
    return ways[at:] + ways[:at]


def plain_checkpoint(machine: Machine, path: Path) -> None:
    """Run the runsc command that our checkpoint is compared with."""
    machine.plain(
        "checkpoint", "--leave-running", "--compression=none", f"--image-path={path}", f"{TASK}+"
    )


def restores(machine: Machine, mib: int, rounds: int) -> dict[str, list[float]]:
    """Time restores of one image: plain, ours."""
    found: dict[str, list[float]] = {"plain": [], "ours": []}
    path = machine.image()
    with machine.task(f"resident-{mib}", settle_s=1.0 + mib / 400):
        machine.client.checkpoint(TASK, CheckpointOptions(image_path=str(path)))
    bundle = machine.bundles / f"resident-{mib}"
    root = machine.folder / "plain"
    for number in range(rounds):
        found["plain"].append(timed(lambda: plain_restore(machine, bundle, path, root)))
        machine.plain("delete", "--force", "again", root=root)
        reap()
        name = f"again-{number}"
        options = RestoreOptions(image_path=str(path))
        found["ours"].append(timed(partial(machine.client.restore, name, options)))
        machine.client.kill(name, 9, everyone=True)
        machine.client.wait(name)
        machine.client.delete(name)
    return found


def plain_restore(machine: Machine, bundle: Path, path: Path, root: Path) -> None:
    """Run the runsc command that our restore is compared with."""
    machine.plain(
        "restore", "--detach", f"--bundle={bundle}", f"--image-path={path}", "again", root=root
    )


def reap() -> None:
    """Reap sandboxes that this process has adopted."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def freezes(
    machine: Machine, count: int, engine: EngineName, rounds: int
) -> dict[str, list[float]]:
    """Time the CUDA steps of checkpoints of a task with `count` GPU processes."""
    found: dict[str, list[float]] = {"freeze": [], "thaw": [], "whole": []}
    with machine.task(f"gpu-{count}", settle_s=2.0 + count / 4):
        for _ in range(rounds):
            path = machine.image()
            options = CheckpointOptions(image_path=str(path), engine=engine, seal=False)
            began = time.perf_counter()
            result = machine.client.checkpoint(TASK, options)
            found["whole"].append(time.perf_counter() - began)
            found["freeze"].append(result.timings_s["freeze"])
            found["thaw"].append(result.timings_s["thaw"])
    return found


def inside(given: dict[str, str]) -> None:
    """Measure, and print the tables; runs in the simulation's mount namespace."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    machine, rounds = Machine(given), int(given["rounds"])
    print(header(machine, rounds))
    print_checkpoints(machine, rounds)
    print_restores(machine, rounds)
    print_freezes(machine, rounds)


def header(machine: Machine, rounds: int) -> str:
    """Return a line with the date, the machine, the versions and the number of rounds."""
    info = machine.client.info()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {memory} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, "
        f"runsc {info['runsc_version']} ({info['engines']}); medians of {rounds}, milliseconds\n"
    )


def print_checkpoints(machine: Machine, rounds: int) -> None:
    """Print the table of checkpoints."""
    print("checkpoint     plain runsc   ours, no seal   ratio   added   ours, sealed   seal GB/s")
    for mib in RESIDENT_MIB:
        found = {k: median_ms(v) for k, v in checkpoints(machine, mib, rounds).items()}
        speed = (mib or 1) * 1.048576 / found["seal"] if mib else 0.0
        print(
            f"{mib:5} MiB      {found['plain']:9.1f}    {found['unsealed']:9.1f}    "
            f"{found['unsealed'] / found['plain']:8.2f} {found['unsealed'] - found['plain']:7.1f}  "
            f"{found['sealed']:10.1f}     {speed:8.2f}",
            flush=True,
        )


def print_restores(machine: Machine, rounds: int) -> None:
    """Print the table of restores."""
    print("\nrestore        plain runsc   ours            ratio   added")
    for mib in RESIDENT_MIB:
        found = {k: median_ms(v) for k, v in restores(machine, mib, rounds).items()}
        print(
            f"{mib:5} MiB      {found['plain']:9.1f}    {found['ours']:9.1f}    "
            f"{found['ours'] / found['plain']:8.2f} {found['ours'] - found['plain']:7.1f}",
            flush=True,
        )


def print_freezes(machine: Machine, rounds: int) -> None:
    """Print the table of CUDA steps."""
    engines = machine.client.info()["engines"].split(", ")
    print("\nGPU processes   engine      freeze     thaw    whole checkpoint   freeze beside one")
    for engine in engines:
        one = 0.0
        for count in PROCESSES:
            times = freezes(machine, count, EngineName(engine), rounds)
            found = {k: median_ms(v) for k, v in times.items()}
            # The built-in engine freezes and thaws inside runsc's save: only the total is known.
            measured = found["freeze"] if engine == "phased" else found["whole"]
            one = one or measured
            print(
                f"{count:5}           {engine:8} {found['freeze']:9.1f} {found['thaw']:8.1f} "
                f"{found['whole']:14.1f} {measured / one:18.2f}",
                flush=True,
            )


def outside(runsc: Path, rounds: int) -> int:
    """Create the machine, and measure inside it."""
    with Simulation(runsc) as sim:
        for mib in RESIDENT_MIB:
            settings = Settings(gpu=False, resident_mib=mib, period_s=1.0)
            sim.bundle(f"resident-{mib}", settings, inject_tool=False)
        for count in PROCESSES:
            sim.bundle(f"gpu-{count}", Settings(processes=count, period_s=0.2), inject_tool=False)
        sim.start_sidecar()
        return measure_inside(sim, "hack.bench.checkpoints", rounds=str(rounds))


def measure_inside(sim: Simulation, module: str, **more: str) -> int:
    """Run a benchmark in the machine's namespace, print its output, and return its status."""
    given = {
        "folder": str(sim.folder),
        "runsc": str(sim.runsc),
        "address": sim.address,
        "flags": json.dumps([f"--{name}={value}" for name, value in sim.flags.items()]),
        **more,
    }
    output = sim.folder / "bench.out"
    argv = [sys.executable, "-m", module, "--inside", json.dumps(given)]
    pid = sim.remote.spawn(argv, output=output, env=environment(), cwd=str(sim.folder))
    follow(output, lambda: sim.remote.wait(pid, 0) is not None)
    return sim.remote.wait(pid, 1.0) or 0


def follow(path: Path, ended: Callable[[], bool]) -> None:
    """Print what is appended to a file until `ended` returns true."""
    with path.open(encoding="utf-8") as file:

        def step() -> bool:
            done = ended()
            sys.stdout.write(file.read())
            sys.stdout.flush()
            return done

        wait_until(step, "the end of the measurement", LIMIT_S)


def main() -> int:
    """Run `make bench`."""
    parser = argparse.ArgumentParser(description="Compare with the plain runsc commands.")
    parser.add_argument("--runsc", type=Path, help="path of runsc [default: from `make tools`]")
    parser.add_argument("--rounds", default=ROUNDS, type=int)
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside)
        return 0
    runsc = given.runsc or fetched(parser)
    return outside(runsc.resolve(), given.rounds)


def fetched(parser: argparse.ArgumentParser) -> Path:
    """Return the runsc that `make tools` chose, or exit with the reason why there is none."""
    # Imported only here: with --runsc the benchmark also runs without pytest, which these need.
    from hack.tools.running import NotHere  # noqa: PLC0415
    from tests.builds import find_program  # noqa: PLC0415

    try:
        return find_program("runsc-new")
    except NotHere as no:
        parser.error(str(no))


if __name__ == "__main__":
    raise SystemExit(main())
