"""A clean machine of a test: a tree of a Debian suite in namespaces of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hack.tools.running import NotHere
from shim.install.links import PATH
from tests.builds import excuse, find_program

_UNPACK_S = 300.0
_DEVICES = ("full", "null", "random", "urandom", "zero")
# All that it mounts ends with its mount namespace.
_ENTER = f"""
set -e
root=$1
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
if test "$3"; then mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"; fi
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for name in {" ".join(_DEVICES)}; do
	touch "$root/dev/$name"
	mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
exec env -i PATH={PATH} HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \\
	chroot "$root" /bin/sh -ec "$2"
"""
# The shell enters the cgroup, which is the root of what it sees then.
_JOIN = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
_numbers = itertools.count()


@dataclass(frozen=True)
class CleanDebian:
    """The root directory of the machine."""

    root: Path

    def at(self, path: Path) -> Path:
        """Return where a path of the machine is here."""
        return self.root / path.relative_to("/")

    def run(
        self, script: str, *, timeout_s: float, network: bool = False, cgroup: bool = False
    ) -> str:
        """Run a script of the shell there and return what it prints; its processes end with it.

        It has the network of this machine if asked to, and else none; with `cgroup` it has
        cgroups of its own, of version 2.

        Raises:
            AssertionError: it failed.
        """
        spaces = ["--mount", "--pid", "--ipc", "--uts", *(() if network else ("--net",))]
        spaces += ["--cgroup"] if cgroup else []
        argv = ["unshare", *spaces, "--fork", "--kill-child", "sh", "-c", _ENTER, "sh"]
        argv += [str(self.root), script, "cgroup" if cgroup else ""]
        with own_cgroup() if cgroup else contextlib.nullcontext() as folder:
            joined = ["sh", "-ec", _JOIN, str(folder), *argv] if folder else argv
            done = subprocess.run(
                joined,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}"
        return done.stdout

    def files(self) -> set[str]:
        """Return the paths of all files, directories and links."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}


@contextlib.contextmanager
def own_cgroup() -> Iterator[Path]:
    """Yield a cgroup of version 2, which is removed with those below it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text("utf-8").splitlines()]
    root = next((Path(each[1]) for each in mounts if each[2] == "cgroup2"), None)
    if root is None:
        excuse("no cgroup2 is mounted")
    folder = root / f"cryo-debian-{os.getpid()}-{next(_numbers)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        folder.rmdir()


@contextlib.contextmanager
def machine(suite: str) -> Iterator[CleanDebian]:
    """Yield a machine with a suite that `make tools` has made."""
    try:
        archive = find_program(suite)
    except NotHere as no:
        excuse(str(no))
    with tempfile.TemporaryDirectory(prefix="cryo-debian-") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        tar = shutil.which("tar") or "tar"
        subprocess.run([tar, "-xpf", archive, "-C", root], check=True, timeout=_UNPACK_S)
        yield CleanDebian(root)
