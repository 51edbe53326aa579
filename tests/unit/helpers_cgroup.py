"""A /proc and a cgroup tree in a folder, as the kernel of either version shows them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from shim.host.cgroup import Cgroup

V1 = {
    "cpu": {"cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 4000\n"},
    "cpuacct": {
        "cpuacct.usage": "7000\n",
        "cpuacct.usage_user": "5000\n",
        "cpuacct.usage_sys": "2000\n",
    },
    "memory": {
        "memory.usage_in_bytes": "1000\n",
        "memory.limit_in_bytes": "4096\n",
        "memory.max_usage_in_bytes": "2000\n",
        "memory.failcnt": "6\n",
        "memory.memsw.usage_in_bytes": "1017\n",
        "memory.memsw.limit_in_bytes": "4115\n",
        "memory.kmem.usage_in_bytes": "23\n",
        "memory.kmem.tcp.usage_in_bytes": "24\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "memory.stat": (
            "cache 1\nrss 2\ntotal_cache 500\ntotal_rss 300\ntotal_inactive_file 200\n"
            "total_pgfault 11\ntotal_pgmajfault 12\ntotal_mapped_file 25\n"
            "total_inactive_anon 26\ntotal_active_anon 27\ntotal_active_file 28\n"
            "total_unevictable 29\n"
        ),
    },
    "pids": {"pids.current": "21\n", "pids.max": "100\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": (
            "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Total 12288\nTotal 12288\n"
        ),
        "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\n9:1 Read 3\nTotal 6\n",
    },
}
V2 = {
    "": {
        "cpu.stat": (
            "usage_usec 7\nuser_usec 5\nsystem_usec 2\n"
            "nr_periods 9\nnr_throttled 3\nthrottled_usec 4\n"
        ),
        "memory.current": "1000\n",
        "memory.max": "4096\n",
        "memory.peak": "2000\n",
        "memory.events": "low 0\nhigh 0\nmax 6\noom 2\noom_kill 1\noom_group_kill 0\n",
        "memory.stat": (
            "anon 300\nfile 500\ninactive_file 200\npgfault 11\npgmajfault 12\nfile_mapped 25\n"
            "inactive_anon 26\nactive_anon 27\nactive_file 28\nunevictable 29\n"
        ),
        "memory.swap.current": "17\n",
        "memory.swap.max": "19\n",
        "pids.current": "21\n",
        "pids.max": "100\n",
        "io.stat": (
            "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n9:1 \n"
            "9:2 rbytes=0 wbytes=0 rios=3 wios=0 cost.usage=1\n"
        ),
    }
}


class Tree:
    """Hierarchies below a folder; each is mounted at `cgroup/NAME`."""

    def __init__(self, folder: Path, files: Mapping[str, Mapping[str, str]]) -> None:
        self.proc = folder / "proc"
        self._top = folder / "cgroup"
        self._files = files
        lines = ["20 1 0:1 / /sys rw shared:2 - sysfs sysfs rw"]
        for number, name in enumerate(files, 30):
            kind = f"cgroup cgroup rw,{name}" if name else "cgroup2 cgroup2 rw,nsdelegate"
            lines.append(f"{number} 20 0:{number} / {self._top / name} rw,relatime - {kind}")
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self" / "mountinfo").write_text("\n".join(lines) + "\n", "utf-8")
        self.process("self", "/ours")
        self.process(str(os.getppid()), "/of-the-parent")

    def process(self, name: str, path: str) -> None:
        """Put a process into a cgroup, the same in all hierarchies."""
        (self.proc / name).mkdir(exist_ok=True)
        lines = [f"{n}:{name}:{path}" for n, name in enumerate(self._files)]
        (self.proc / name / "cgroup").write_text("\n".join(lines) + "\n", "utf-8")

    def write(self, path: str) -> None:
        """Make a cgroup with the figures of its version."""
        for name, files in self._files.items():
            folder = self._top / name / path.lstrip("/")
            folder.mkdir(parents=True)
            for file, text in files.items():
                (folder / file).write_text(text, "ascii")

    def cgroup(self, path: str) -> Cgroup:
        """Describe a cgroup."""
        folders = {name: self._top / name / path.lstrip("/") for name in self._files}
        return Cgroup(unified="" in self._files, folders=folders)
