"""Runs inside the namespace: prints as JSON what exists, or with --sweep removes what is left.

python -m tests.containerd.look FOLDER CGROUP [--sweep]
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_MNT_DETACH = 2
_SWEEP_S = 10.0
_CGROUPS = Path("/sys/fs/cgroup")


def below(root: int) -> dict[int, str]:
    """Return the command line of each descendant of a process, zombies included."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry.name)] = parent_of(int(entry.name))
    found: set[int] = {root}
    for _ in parents:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            break
        found |= more
    return {pid: command_of(pid) for pid in found - {root, os.getpid()}}


def parent_of(pid: int) -> int:
    """Return a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])


def command_of(pid: int) -> str:
    """Return a process's command line, or its name when it has exited."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if text := b" ".join(words).decode("utf-8", "replace").strip():
            return text
        return comm_of(pid)
    return ""


def comm_of(pid: int | str) -> str:
    """Return a process's name; empty if it has exited."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
    return ""


def mounts(folder: str) -> list[str]:
    """Return the mount points below the folder and below /run, deepest last."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        point = line.split()[4].replace("\\040", " ")
        if is_below(point, folder) or is_below(point, "/run"):
            points.append(point)
    return sorted(points)


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is in the directory."""
    return path.startswith(folder.rstrip("/") + "/")


def files(roots: Iterable[str]) -> list[str]:
    """Return every path below these directories, with sockets and fifos marked; skip mounts."""
    return sorted(path + mark(path) for root in roots for path in walk(root))


def walk(root: str) -> Iterator[str]:
    """Yield the paths below a directory."""
    for folder, names, leaves in os.walk(root):
        names[:] = [name for name in names if not os.path.ismount(f"{folder}/{name}")]
        for name in (*names, *leaves):
            yield f"{folder}/{name}"


def mark(path: str) -> str:
    """Return the suffix that `ls -F` prints for a path."""
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        return "=" if stat.S_ISSOCK(mode) else "|" if stat.S_ISFIFO(mode) else ""
    return ""


def cgroups(name: str) -> list[str]:
    """Return every cgroup, in each hierarchy, with this name in its path, deepest last."""
    found = []
    for folder, names, _ in os.walk(_CGROUPS):
        found += [f"{folder}/{leaf}" for leaf in names if name in f"{folder}/{leaf}".split("/")]
    return sorted(found)


def descriptors(pid: int, stores: str) -> dict[str, int]:
    """Count a process's open descriptors by target, without inode numbers.

    Leave out connections, which are temporary, and its databases, which it opens on demand.
    """
    counts: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = re.sub(r"\[\d+\]|:\[.*\]", "", str(entry.readlink()))
                if target != "socket" and not is_below(target, stores):
                    counts[target] = counts.get(target, 0) + 1
    return counts


def look(folder: str, cgroup: str) -> dict[str, object]:
    """Return everything that a container could leave behind."""
    processes = below(os.getppid())
    daemons = [pid for pid, command in processes.items() if is_daemon(command, folder)]
    others = {str(pid): processes[pid] for pid in processes if pid not in daemons}
    roots = (f"{folder}/state", f"{folder}/tmp", f"{folder}/bundles", "/run")
    return {
        "processes": others,
        "forkservers": [pid for pid in others if comm_of(pid) == "cryo-forkserver"],
        "mounts": mounts(folder),
        "files": files(roots),
        "cgroups": cgroups(cgroup),
        "descriptors": {str(pid): descriptors(pid, f"{folder}/root") for pid in daemons},
    }


def is_daemon(command: str, folder: str) -> bool:
    """Return whether this is the containerd of this directory."""
    return command.partition(" ")[0].endswith("/containerd") and folder in command


def belongs(pid: int, command: str, folder: str) -> bool:
    """Return whether a process belongs to the containerd of this directory."""
    if is_below(f"{command} ".replace(" ", "\n").partition("\n")[0], folder) or folder in command:
        return True
    with contextlib.suppress(OSError):
        if is_below(f"{Path(f'/proc/{pid}/cwd').readlink()}/", folder):
            return True
        return folder.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def sweep(folder: str, cgroup: str) -> None:
    """Remove what a containerd has left behind: processes, mounts and cgroups."""
    deadline = time.monotonic() + _SWEEP_S
    while time.monotonic() < deadline:
        # Only descendants of our init: other tests may use a cgroup of this name.
        processes = below(os.getppid())
        confined = {pid for path in cgroups(cgroup) for pid in members(path)}
        left = [p for p, c in processes.items() if p in confined or belongs(p, c, folder)]
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for point in reversed([point for point in mounts(folder) if is_below(point, folder)]):
        ctypes.CDLL(None).umount2(point.encode(), _MNT_DETACH)
    for path in reversed(cgroups(cgroup)):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


def members(cgroup: str) -> list[int]:
    """Return the processes in a cgroup."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(cgroup, "cgroup.procs").read_text("utf-8").split()]
    return []


def main(argv: list[str]) -> None:
    """Print what exists, or remove what is left."""
    if "--sweep" in argv:
        sweep(argv[0], argv[1])
    else:
        print(json.dumps(look(argv[0], argv[1])))  # noqa: T201  # read by `Leftovers`


if __name__ == "__main__":
    main(sys.argv[1:])
