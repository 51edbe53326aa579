"""Measures what `--exclude-committed-zero-pages` gains for memory that a freeze has filled.

    python -m hack.bench zero_pages                             # a row each, with the others
    python -m hack.bench.zero_pages --real --mib 8192           # on the GPU of this machine

Half of the GPU memory of a process is zeros, MiB by MiB. The same frozen sandbox, or with runsc's
own engine the same running one, is saved by the plain runsc command with and without the flag, by
turns. `--real` uses the GPU of this machine: its driver may fill memory in another way.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.bench.effort import Effort
from hack.bench.row import Row, Rows, row
from hack.tools.running import NotHere
from shim.errors import CryoError, RunscError
from shim.simgpu.guest import names
from shim.simgpu.hardware import Hardware
from shim.simgpu.machine import Machine
from shim.simgpu.sandbox import Sandbox
from shim.simgpu.simulation import Settings, Simulation
from shim.simgpu.waiting import wait_until

FLAG = "-exclude-committed-zero-pages"
_NAME = "zeros"
_COMMAND = "checkpoint"
_READY_S = 300.0
_SPARE = 2
_MIB = 256
_ROUNDS = 5
_GUEST = """
import os, sys, time
sys.path.insert(0, CODE)
random = os.urandom(1 << 20)
data = bytearray()
for at in range(MIB):
    data += random if at % 2 else bytes(1 << 20)
if REAL:
    from shim.simgpu.guest.libcuda import Cuda
    driver = Cuda(on_loss=print)
else:
    from shim.simgpu.guest import names
    from shim.simgpu.guest.driver import Driver
    os.makedirs(names.RUN_DIR)
    driver = Driver("zeros", on_loss=print)
    driver.listen()
held = driver.alloc("zeros", data)
del data
open("/tmp/ready", "w").close()
time.sleep(100000)
"""


def measure(runsc: Path, effort: Effort) -> Rows:
    """Measure with a simulated GPU."""
    with Simulation(runsc, capacity_bytes=_SPARE * _MIB << 20) as machine:
        return compare(machine, _MIB, effort.rounds(_ROUNDS), real=False)


def compare(machine: Machine, mib: int, rounds: Iterable[int], *, real: bool) -> Rows:
    """Return the sizes of the images and the seconds of the saves, by engine and flag."""
    found: dict[str, list[float]] = {}
    box = machine.sandbox()
    with _guest(machine, box, mib, real=real) as pid:
        for _ in rounds:
            for engine in ("phased", "builtin"):
                frozen = engine == "phased"
                if frozen:
                    box.act(_NAME, "lock", [pid])
                    box.act(_NAME, "checkpoint", [pid])
                for with_flag in (False, True):
                    seconds, size = _save(machine, box, frozen=frozen, with_flag=with_flag)
                    key = f"zero-pages.{engine}.{'flag' if with_flag else 'plain'}"
                    found.setdefault(f"{key}.seconds", []).append(seconds)
                    found.setdefault(f"{key}.image", []).append(size / (1 << 20))
                if frozen:
                    box.act(_NAME, "restore", [pid])
                    box.act(_NAME, "unlock", [pid])
    note = f"{mib} MiB of GPU memory, half of it zeros" + ("" if real else "; simulated GPU")
    return {key: _row(key, samples, note) for key, samples in found.items()}


def _row(key: str, samples: list[float], note: str) -> Row:
    return row(samples, "s" if key.endswith(".seconds") else "MiB", note)


@contextmanager
def _guest(machine: Machine, box: Sandbox, mib: int, *, real: bool) -> Iterator[int]:
    """Run the process with the GPU memory; yield its pid in the container."""
    folder = machine.bundle(_NAME, Settings(real=real), tool=_tool(machine))
    path = folder / "config.json"
    content = json.loads(path.read_text("utf-8"))
    text = _GUEST.replace("CODE", repr(names.CODE_DIR)).replace("MIB", str(mib))
    content["process"]["args"][2:] = ["-c", text.replace("REAL", str(real))]
    path.write_text(json.dumps(content), "utf-8")
    box.run(_NAME, folder)
    try:
        wait_until(
            lambda: not box.exec(_NAME, ["/bin/ls", "/tmp/ready"]).status,  # noqa: S108  # its own
            "the GPU memory",
            _READY_S,
        )
        [pid] = box.pids(_NAME)
        yield pid
    finally:
        box.delete(_NAME)


def _tool(machine: Machine) -> Path | None:
    """Return cuda-checkpoint for the bundle: a real one is the host's."""
    if isinstance(machine, Simulation):
        return machine.tool
    found = shutil.which("cuda-checkpoint")
    if found is None:
        message = "plain runsc needs NVIDIA's cuda-checkpoint, which is not on PATH"
        raise NotHere(message)
    return Path(found)


def _save(machine: Machine, box: Sandbox, *, frozen: bool, with_flag: bool) -> tuple[float, int]:
    """Save once; return the seconds of the command, and the size of the image.

    Raises:
        RunscError: it failed.
    """
    image = machine.image("zeros")
    image.mkdir()
    flags = ["-compression=none", *([FLAG] if with_flag else [])]
    if not frozen:
        flags.append(f"-cuda-checkpoint-path={names.TOOL}")
    try:
        began = time.perf_counter()
        ran = box.checkpoint(_NAME, image, *flags)
        seconds = time.perf_counter() - began
        if ran.status:
            raise RunscError(_COMMAND, ran.status, (ran.err or ran.out)[-500:])
        return seconds, sum(one.stat().st_size for one in image.iterdir())
    finally:
        shutil.rmtree(image)


def _found_runsc() -> Path:
    # Only here: a GPU machine has no pytest, which this needs.
    from tests.builds import find_program  # noqa: PLC0415

    return find_program("runsc-new")


def main() -> int:
    """Run the command; print the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m hack.bench.zero_pages")
    parser.add_argument("--runsc", type=Path, help="path of runsc [default: from `make tools`]")
    parser.add_argument("--mib", type=int, default=1024, help="GPU memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--real", action="store_true", help="use the GPU of this machine")
    given = parser.parse_args()
    try:
        runsc = given.runsc or _found_runsc()
        room = _SPARE * given.mib << 20
        with Hardware(runsc) if given.real else Simulation(runsc, capacity_bytes=room) as machine:
            rows = compare(machine, given.mib, range(given.rounds), real=given.real)
    except (NotHere, CryoError) as error:
        print(f"zero_pages: {error}", file=sys.stderr)
        return 1
    for key, one in sorted(rows.items()):
        print(json.dumps({"key": key, "value": one.value, "unit": one.unit, "min": one.min,
                          "max": one.max, "n": one.n, "note": one.note}))  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
