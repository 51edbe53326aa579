"""The cgroup of a sandbox, and its statistics.

Source: cgroups(7), the kernel's admin-guide/cgroup-v1 and cgroup-v2, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from shim.errors import NotFound
from shim.host import mountinfo, procstat
from shim.host.oserror import typed
from shim.model import DeviceUse, Stats

_PROC = Path("/proc")
_LIMIT_BYTES = 1 << 20
# Without a limit, version 1 shows the largest number of whole pages.
_NO_LIMIT = 1 << 62
_FREE_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_FREE_V2 = ("memory.max", "memory.current", "")
_NS_PER_US = 1000
_DEVICE_WORDS = 3
_EMPTY_S = 2.0
_POLL_S = 0.02


class Cgroup(NamedTuple):
    """The folders of a cgroup: one per controller in version 1, a single one in version 2."""

    unified: bool
    folders: Mapping[str, Path]

    def file(self, controller: str, name: str) -> Path | None:
        """Return the path of a controller's file, if that controller is in use."""
        folder = self.folders.get("" if self.unified else controller)
        return folder / name if folder else None

    @property
    def kills(self) -> Path | None:
        """The file whose `oom_kill` counts the processes killed by the OOM killer."""
        return self.file("memory", "memory.events" if self.unified else "memory.oom_control")


def find(pid: int, proc: Path = _PROC) -> Cgroup | None:
    """Find the cgroup of a sandbox; None if it is the root's or that of the process's starter.

    Hybrid hosts count memory in version 1, so that version is used there.
    """
    mine = _paths(proc / str(pid))
    folders = dict(_folders(mine, _shared(pid, proc), proc))
    if "memory" in mine:
        return Cgroup(unified=False, folders=folders) if "memory" in folders else None
    return Cgroup(unified=True, folders=folders) if "" in folders else None


def around(pid: int, proc: Path = _PROC) -> Cgroup | None:
    """Find the cgroup in which the memory of a process counts, also one with others in it."""
    mine, mounts = _paths(proc / str(pid)), _mounts(proc)
    controller = "memory" if "memory" in mine else ""
    if controller not in mounts:
        return None
    root, mounted = mounts[controller]
    path = Path(mine.get(controller, "/"))
    below = path.relative_to(root) if path.is_relative_to(root) else path.relative_to("/")
    return Cgroup(unified=not controller, folders={controller: mounted / below})


def _shared(pid: int, proc: Path) -> list[Mapping[str, str]]:
    """Read the cgroups of the processes that may have started it: its parent and this process."""
    parent = procstat.read(pid)
    names = ["self", *([str(parent.ppid)] if parent else [])]
    return [_paths(proc / name) for name in names]


def _paths(process: Path) -> dict[str, str]:
    """Read /proc/PID/cgroup: the path by controller, with '' for the unified hierarchy."""
    found = {}
    for line in _text(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _folders(
    mine: Mapping[str, str], shared: list[Mapping[str, str]], proc: Path
) -> Iterator[tuple[str, Path]]:
    for controller, (root, mounted) in _mounts(proc).items():
        path = mine.get(controller, "/")
        if path == "/" or any(path == other.get(controller) for other in shared):
            continue
        if Path(path).is_relative_to(root):
            yield controller, mounted / Path(path).relative_to(root)


def _mounts(proc: Path) -> Mapping[str, tuple[str, Path]]:
    """Read where each hierarchy is mounted, and which of its cgroups is the root of the mount."""
    lines = _text(proc / "self" / "mountinfo").splitlines()
    return _hierarchies("\n".join(line for line in lines if " - cgroup" in line))


@functools.lru_cache(maxsize=1)
def _hierarchies(table: str) -> Mapping[str, tuple[str, Path]]:
    """Return what `_mounts` does of a table, which is almost always the same."""
    found: dict[str, tuple[str, Path]] = {}
    for mount in mountinfo.parse(table):
        if mount.kind == "cgroup2":
            found.setdefault("", (mount.root, Path(mount.point)))
        elif mount.kind == "cgroup":
            for controller in mount.options.split(","):
                found.setdefault(controller, (mount.root, Path(mount.point)))
    return found


def paths(path: str, proc: Path = _PROC) -> list[Path]:
    """List the folders of a spec's cgroupsPath; none for a relative path or a systemd one."""
    if not path.startswith("/") or ".." in Path(path).parts:
        return []
    tops = {mounted for root, mounted in _mounts(proc).values() if root == "/"}
    return sorted(top / path.lstrip("/") for top in tops)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove these cgroups if empty; wait briefly for processes that are still exiting."""
    until = time.monotonic() + _EMPTY_S
    for folder in folders:
        while not _removed(folder) and time.monotonic() < until:
            time.sleep(_POLL_S)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError as error:
        return error.errno != errno.EBUSY
    return True


def measure(cgroup: Cgroup) -> Stats:
    """Read the resource use of a cgroup.

    Raises:
        NotFound: the cgroup was removed.
    """
    return _measure_v2(cgroup.folders[""]) if cgroup.unified else _measure_v1(cgroup)


def _measure_v1(cgroup: Cgroup) -> Stats:
    use = cgroup.folders["memory"]
    used = _used(use / "memory.usage_in_bytes")
    limit = _limit(use / "memory.limit_in_bytes")
    memory = _table(use / "memory.stat")
    throttling = _table(cgroup.file("cpu", "cpu.stat"))
    return Stats(
        cpu_usage_ns=_number(cgroup.file("cpuacct", "cpuacct.usage")),
        cpu_user_ns=_number(cgroup.file("cpuacct", "cpuacct.usage_user")),
        cpu_system_ns=_number(cgroup.file("cpuacct", "cpuacct.usage_sys")),
        cpu_periods=throttling.get("nr_periods", 0),
        cpu_throttled_periods=throttling.get("nr_throttled", 0),
        cpu_throttled_ns=throttling.get("throttled_time", 0),
        memory_bytes=used,
        memory_limit_bytes=limit,
        memory_max_bytes=_number(use / "memory.max_usage_in_bytes"),
        memory_cache_bytes=memory.get("total_cache", 0),
        memory_rss_bytes=memory.get("total_rss", 0),
        memory_mapped_file_bytes=memory.get("total_mapped_file", 0),
        memory_inactive_anon_bytes=memory.get("total_inactive_anon", 0),
        memory_active_anon_bytes=memory.get("total_active_anon", 0),
        memory_inactive_file_bytes=memory.get("total_inactive_file", 0),
        memory_active_file_bytes=memory.get("total_active_file", 0),
        memory_unevictable_bytes=memory.get("total_unevictable", 0),
        memory_swap_bytes=max(0, _number(use / "memory.memsw.usage_in_bytes") - used),
        memory_swap_limit_bytes=max(0, _limit(use / "memory.memsw.limit_in_bytes") - limit),
        memory_kernel_bytes=_number(use / "memory.kmem.usage_in_bytes"),
        memory_kernel_tcp_bytes=_number(use / "memory.kmem.tcp.usage_in_bytes"),
        memory_limit_hits=_number(use / "memory.failcnt"),
        page_faults=memory.get("total_pgfault", 0),
        major_page_faults=memory.get("total_pgmajfault", 0),
        oom_kills=oom_kills(cgroup),
        pids=_number(cgroup.file("pids", "pids.current")),
        pids_limit=_limit(cgroup.file("pids", "pids.max")),
        io=_io_v1(cgroup),
    )


def _measure_v2(folder: Path) -> Stats:
    used = _used(folder / "memory.current")
    cpu = _table(folder / "cpu.stat")
    memory = _table(folder / "memory.stat")
    events = _table(folder / "memory.events")
    return Stats(
        cpu_usage_ns=cpu.get("usage_usec", 0) * _NS_PER_US,
        cpu_user_ns=cpu.get("user_usec", 0) * _NS_PER_US,
        cpu_system_ns=cpu.get("system_usec", 0) * _NS_PER_US,
        cpu_periods=cpu.get("nr_periods", 0),
        cpu_throttled_periods=cpu.get("nr_throttled", 0),
        cpu_throttled_ns=cpu.get("throttled_usec", 0) * _NS_PER_US,
        memory_bytes=used,
        memory_limit_bytes=_limit(folder / "memory.max"),
        memory_max_bytes=_number(folder / "memory.peak"),
        memory_cache_bytes=memory.get("file", 0),
        memory_rss_bytes=memory.get("anon", 0),
        memory_mapped_file_bytes=memory.get("file_mapped", 0),
        memory_inactive_anon_bytes=memory.get("inactive_anon", 0),
        memory_active_anon_bytes=memory.get("active_anon", 0),
        memory_inactive_file_bytes=memory.get("inactive_file", 0),
        memory_active_file_bytes=memory.get("active_file", 0),
        memory_unevictable_bytes=memory.get("unevictable", 0),
        memory_swap_bytes=_number(folder / "memory.swap.current"),
        memory_swap_limit_bytes=_limit(folder / "memory.swap.max"),
        memory_limit_hits=events.get("max", 0),
        page_faults=memory.get("pgfault", 0),
        major_page_faults=memory.get("pgmajfault", 0),
        oom_kills=events.get("oom_kill", 0),
        pids=_number(folder / "pids.current"),
        pids_limit=_limit(folder / "pids.max"),
        io=_io_v2(folder / "io.stat"),
    )


def unthrottled_bytes(cgroup: Cgroup) -> int | None:
    """Return how many more bytes it may use before it is slowed down; None if there is no limit."""
    found = [free_bytes(cgroup)]
    if cgroup.unified:
        found.append(free_bytes(cgroup, limit="memory.high"))
    return min((count for count in found if count is not None), default=None)


def free_bytes(cgroup: Cgroup, *, limit: str = "") -> int | None:
    """Return how many more bytes it may use before an OOM kill; None if there is no limit.

    The limits of its ancestors, such as a pod's, apply too. File pages do not count, since the
    kernel drops them first; a sandbox's memory is not file pages (memory.stat in cgroup-v2).
    """
    folder = cgroup.file("memory", "")
    if folder is None:
        return None
    names = _FREE_V2 if cgroup.unified else _FREE_V1
    most, used, prefix = limit or names[0], *names[1:]
    limited = (one for one in (folder, *folder.parents) if (one / most).exists())
    free = (_free_bytes(one, most, used, prefix) for one in limited)
    return min((count for count in free if count is not None), default=None)


def _free_bytes(folder: Path, limit: str, used: str, prefix: str) -> int | None:
    most, memory = _limit(folder / limit), _table(folder / "memory.stat")
    dropped = sum(memory.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))
    return max(0, most - _number(folder / used) + dropped) if most else None


def oom_kills(cgroup: Cgroup) -> int:
    """Return the number of OOM kills; 0 when the cgroup is gone."""
    return _table(cgroup.kills).get("oom_kill", 0)


def _io_v1(cgroup: Cgroup) -> tuple[DeviceUse, ...]:
    """Combine the lines of each device: `8:0 Read 4096`."""
    sizes = _operations(cgroup.file("blkio", "blkio.throttle.io_service_bytes_recursive"))
    counts = _operations(cgroup.file("blkio", "blkio.throttle.io_serviced_recursive"))
    devices = dict.fromkeys(device for device, _ in (*sizes, *counts))
    return tuple(
        _device(
            device,
            read_bytes=sizes.get((device, "Read"), 0),
            write_bytes=sizes.get((device, "Write"), 0),
            reads=counts.get((device, "Read"), 0),
            writes=counts.get((device, "Write"), 0),
        )
        for device in devices
    )


def _operations(path: Path | None) -> dict[tuple[str, str], int]:
    rows = [line.split() for line in _text(path).splitlines()]
    return {(row[0], row[1]): int(row[2]) for row in rows if len(row) == _DEVICE_WORDS}


def _io_v2(path: Path) -> tuple[DeviceUse, ...]:
    """Read the line of each device: `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 ...`."""
    found = []
    for device, *pairs in (line.split() for line in _text(path).splitlines()):
        use = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        found.append(
            _device(
                device,
                read_bytes=int(use.get("rbytes", 0)),
                write_bytes=int(use.get("wbytes", 0)),
                reads=int(use.get("rios", 0)),
                writes=int(use.get("wios", 0)),
            )
        )
    return tuple(found)


def _device(name: str, **use: int) -> DeviceUse:
    major, _, minor = name.partition(":")
    return DeviceUse(major=int(major), minor=int(minor), **use)


def _table(path: Path | None) -> dict[str, int]:
    """Read a file of lines with a name and a number."""
    rows = [line.split() for line in _text(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}  # noqa: PLR2004 - a pair


def _used(path: Path) -> int:
    text = _text(path)
    if not text:
        message = f"the cgroup {path.parent} is gone"
        raise NotFound(message, remedy="the task has exited: delete it")
    return int(text)


def _number(path: Path | None) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0


def _limit(path: Path | None) -> int:
    """Read a limit; 0, none, for `max` and numbers from `_NO_LIMIT` up."""
    number = _number(path)
    return number if number < _NO_LIMIT else 0


def _text(path: Path | None) -> str:
    """Read a cgroup file; empty if this kernel does not have it, or if the cgroup is gone."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError as error:
        # ENODEV: opened while the cgroup existed, read after it was removed.
        if error.errno in {errno.ENOENT, errno.ESRCH, errno.ENODEV}:
            return ""
        raise typed(error, f"read {path}") from error
