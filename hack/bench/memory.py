"""The memory of the shims of idle containers (PSS): ours, gVisor's own and runc's.

PSS counts a page that several processes share by its part, so that the sum is what all of them use.
The fork server is counted with our shims. The sandboxes are the same with ours and gVisor's shim.
`shim-memory` has what ours is used for with the most containers, for each (hack/bench/smaps.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hack.bench import inside, smaps
from hack.bench.ctr import Ctr
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.row import RATIO, Row, Rows
from hack.bench.shim_node import CRYO, GVISOR, RUNC, RUNTIMES, node

PODS = (1, 10, 50)
_QUICK_PODS = (1, 10)
_SIGNS = {
    CRYO: b"shim.entry.shimbin.forkserver",
    GVISOR: b"containerd-shim-runsc-v1",
    RUNC: b"containerd-shim-runc-v2",
}


def measure(runsc: Path, effort: Effort) -> Rows:
    """Start containerd, and measure in its namespace."""
    with node(runsc) as here:
        return inside.run(here.place.remote, here.containerd.folder, part, effort, here.given)


def part(given: Given, effort: Effort) -> Rows:
    """Start containers of each runtime, and measure their shims at each number of them."""
    rows: Rows = {}
    ctr = Ctr(given)
    for runtime in RUNTIMES:
        names: list[str] = []
        for count in _QUICK_PODS if effort.quick else PODS:
            while len(names) < count:
                # runsc takes the beginning of an id for the id.
                names.append(f"{runtime}-pod-{len(names):03}")
                ctr.begin(runtime, names[-1], "sleep", "1000")
            pids = shims(runtime)
            if runtime == CRYO:
                rows |= account(pids, count)
            total = sum(map(pss_kib, pids))
            each = round(total / 1024 / count, 2)
            rows[f"memory.{count}.{runtime}"] = Row(value=each, unit="MiB", min=each, max=each, n=1)
        for name in names:
            ctr.end(name)
    for count in _QUICK_PODS if effort.quick else PODS:
        ours, theirs = (rows[f"memory.{count}.{name}"].value for name in (CRYO, GVISOR))
        if ours and theirs:
            each = round(ours / theirs, 3)
            rows[f"memory.{count}.ratio"] = Row(value=each, unit=RATIO, min=each, max=each, n=1)
    return rows


def account(pids: Iterable[int], count: int) -> Rows:
    """Return the memory of our shims by its use, for each container: of one alone, and shared."""
    rows: Rows = {}
    uses = smaps.account(pids)
    for name, use in {**uses, "all": smaps.total(uses.values())}.items():
        for kind, kib in (("private", use.private), ("shared", use.share)):
            each = round(kib / 1024 / count, 3)
            rows[f"shim-memory.{name}.{kind}"] = Row(
                value=each, unit="MiB", min=each, max=each, n=1
            )
    return rows


def shims(runtime: str) -> set[int]:
    """Return the runtime's shims in our mount namespace; ours include the fork server."""
    here = Path("/proc/self/ns/mnt").readlink()
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")[:3]
            # Only in the name of a program or module: arguments of this suite have paths of them.
            named = any(word.endswith(_SIGNS[runtime]) for word in words)
            if named and (folder / "ns/mnt").readlink() == here:
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def pss_kib(pid: int) -> int:
    """Return a process's PSS; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
