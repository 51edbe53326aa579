"""Compares our shim, gVisor's own and runc's under containerd: start time and memory.

    make bench                          # this and hack/bench/checkpoints.py
    python -m hack.bench.shims --rounds 10 --pods 1 10 50

With a real containerd 2.4 in a private mount namespace and one small image: the duration of
alternating `ctr run --rm` of /bin/true, and the memory (PSS) of the shims while pods run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hack.bench import shim_calls
from tests.builds import find_program
from tests.containerd import image
from tests.containerd.builds import find_containerd
from tests.containerd.harness import Containerd
from tests.containerd.place import private_place

LINE = "2.4"
LIMIT_S = 900.0
FLAGS = {"network": "none", "ignore-cgroups": "true", "overlay2": "root:memory"}
# gVisor's shim hangs in a plain run without a terminal: it reads a pipe to the end that the sandbox
# keeps open. It does not for a pod's sandbox.
ANNOTATION = "io.kubernetes.cri.container-type=sandbox"
RUNTIMES = ("cryo", "runsc", "runc")


def command(given: dict[str, Any], runtime: str, name: str, *words: str) -> list[str]:
    """Return the ctr command line that runs a container with a runtime."""
    how = {
        "cryo": ["--runtime", "io.containerd.cryo.v1"],
        "runsc": [
            *("--runtime", "io.containerd.runsc.v1", "--annotation", ANNOTATION),
            *("--runtime-config-path", given["runsc_toml"]),
        ],
        "runc": ["--runtime", "io.containerd.runc.v2"],
    }[runtime]
    flags, reference = ["--snapshotter", "native"], image.REFERENCE
    detach = ["-d"] if words[0] == "sleep" else ["--rm"]
    return [*given["ctr"], "run", *how, *flags, *detach, reference, name, *words]


def quiet(argv: list[str]) -> int:
    """Run a command and return its exit status; print its stderr if that is not 0."""
    nothing = subprocess.DEVNULL
    with tempfile.TemporaryFile() as said:  # no pipe: a shim may keep it open
        status = subprocess.run(
            argv, stdin=nothing, stdout=nothing, stderr=said, check=False, timeout=60
        ).returncode
        if status:
            said.seek(0)
            sys.stderr.buffer.write(said.read())
        return status


def times(given: dict[str, Any]) -> dict[str, list[float]]:
    """Time alternating runs of `ctr run --rm` of /bin/true, without the first of each."""
    found: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    for number in range(given["rounds"] + 1):
        for runtime in RUNTIMES:
            began = time.perf_counter()
            status = quiet(command(given, runtime, f"{runtime}-{number}", "true"))
            spent = time.perf_counter() - began
            # gVisor's own shim reports 128 here for an exit status of 0.
            if status not in ((0, 128) if runtime == "runsc" else (0,)):
                message = f"ctr run with {runtime} exited with status {status}"
                raise RuntimeError(message)
            if number:
                found[runtime].append(spent)
    return found


def shim_pids(runtime: str) -> list[int]:
    """List the processes that are a runtime's shims; ours include the fork server."""
    sign = {
        "cryo": b"shim.entry.shimbin.forkserver",
        "runsc": b"containerd-shim-runsc-v1",
        "runc": b"containerd-shim-runc-v2",
    }[runtime]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if sign in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def pss_kib(pid: int) -> int:
    """Return a process's PSS."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def memory(given: dict[str, Any], runtime: str) -> dict[int, float]:
    """Measure the shims' memory per pod, in MiB, for each number of pods."""
    found: dict[int, float] = {}
    names: list[str] = []
    before = set(shim_pids(runtime))
    for count in given["pods"]:
        while len(names) < count:
            names.append(f"{runtime}-pod-{len(names)}")
            quiet(command(given, runtime, names[-1], "sleep", "1000"))
        pids = set(shim_pids(runtime)) - (before if runtime != "cryo" else set())
        found[count] = sum(map(pss_kib, pids)) / 1024 / count
    for name in names:
        quiet([*given["ctr"], "tasks", "rm", "--force", name])
        quiet([*given["ctr"], "containers", "rm", name])
    return found


def inside(given: dict[str, Any]) -> None:
    """Measure, in containerd's namespace, and print the tables."""
    print("\nctr run --rm /bin/true     median ms    beside runc")
    found = times(given)
    runc = statistics.median(found["runc"])
    for runtime in RUNTIMES:
        middle = statistics.median(found[runtime])
        print(f"{TITLES[runtime]:25} {middle * 1000:9.0f} {middle / runc:13.2f}", flush=True)
    print("", *shim_calls.table(given, TITLES), sep="\n", flush=True)
    pods = given["pods"]
    print("\nshim memory (PSS, MiB per pod) " + "".join(f"{n:>7} pods" for n in pods))
    for runtime in RUNTIMES:
        mib = memory(given, runtime)
        print(f"{TITLES[runtime]:31}" + "".join(f"{mib[n]:12.1f}" for n in pods), flush=True)


TITLES = {"cryo": "cryo", "runsc": "gVisor's own shim", "runc": "runc"}


@contextmanager
def files() -> Iterator[tuple[dict[str, Path], Path, Path]]:
    """Write our launcher, our settings and those of gVisor's shim."""
    runsc = find_program("runsc-new")
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="cryo-bench-") as name:
        folder = Path(name)
        ours = folder / "containerd-shim-cryo-v1"
        ours.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
            "from shim.entry.shimbin.main import main\nmain()\n",
            "utf-8",
        )
        ours.chmod(0o755)
        lines = [f'{key} = "{value}"' for key, value in FLAGS.items()]
        toml = folder / "cryo.toml"
        paths = "".join(
            f'{key} = "{folder / key}"\n' for key in ("state", "images", "verified", "scratch")
        )
        flags = "\n".join(lines)
        toml.write_text(
            f'[paths]\n{paths}[runsc]\nbinary = "{runsc}"\n[runsc.flags]\n{flags}\n', "utf-8"
        )
        theirs = folder / "runsc.toml"
        theirs.write_text(f'binary_name = "{runsc}"\n[runsc_config]\n{flags}\n', "utf-8")
        programs = {
            ours.name: ours,
            "runsc": runsc,
            "runc": find_program("runc"),
            "containerd-shim-runsc-v1": find_program("gvisor-shim"),
        }
        yield programs, toml, theirs


def outside(rounds: int, pods: list[int]) -> int:
    """Start containerd, and measure in its namespace."""
    with files() as (programs, toml, theirs), private_place() as place:
        env = {"CRYO_CONFIG": str(toml), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        build = find_containerd(LINE)
        with Containerd(build, place, programs=programs, env=env) as containerd:
            archive = containerd.folder / "image.tar"
            image.write(archive, find_program("busybox"))
            containerd.import_image(archive)
            given = {
                "ctr": containerd.ctr_argv(),
                "runsc_toml": str(theirs),
                "folder": str(containerd.folder),
                "address": str(containerd.address),
                "busybox": str(find_program("busybox")),
                "runsc": str(programs["runsc"]),
                "runsc_flags": [f"--{name}={value}" for name, value in FLAGS.items()],
                "cryo": str(programs["containerd-shim-cryo-v1"]),
                "cryo_env": env,
                "gvisor": str(programs["containerd-shim-runsc-v1"]),
                "rounds": rounds,
                "pods": pods,
            }
            print(
                f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, "
                f"Linux {platform.release()}, Python {platform.python_version()}, "
                f"containerd {build.line}, medians of {rounds}"
            )
            ran = place.python("hack.bench.shims", "--inside", json.dumps(given), timeout_s=LIMIT_S)
            print(ran.out)
            return ran.status


def main() -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description="Compare with gVisor's own shim and with runc.")
    parser.add_argument("--rounds", default=10, type=int)
    parser.add_argument("--pods", default=[1, 10, 50], type=int, nargs="+")
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside)
        return 0
    return outside(given.rounds, given.pods)


if __name__ == "__main__":
    raise SystemExit(main())
