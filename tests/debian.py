"""A clean machine of a test: a tree of a Debian suite in namespaces of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.tools.running import NotHere
from shim.install.links import PATH
from tests.builds import excuse, find_program
from tests.own_cgroups import mounts, own_cgroups

_UNPACK_S = 300.0
_DEVICES = ("full", "null", "random", "urandom", "zero")
# All that it mounts ends with its mount namespace, where nothing of this machine's files remains.
_ENTER = f"""
set -e
root=$1
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
eval "$2"
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
cd "$root"
pivot_root . mnt
shift 2
exec env -i PATH={PATH} HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \\
	chroot . /bin/sh -ec 'umount -l /mnt; cd /; exec "$@"' sh "$@"
"""
# The shell enters the cgroups, which are the roots of what it sees then.
_JOIN = 'for folder in $0; do echo $$ >"$folder/cgroup.procs"; done; exec "$@"'

# As in other containers, what is not in a namespace cannot be changed.
_READ_ONLY = """
mount -o remount,bind,ro /sys
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec "$@"
"""
_DROPPED = ("sys_module", "sys_rawio", "sys_time", "syslog", "wake_alarm", "block_suspend")
_SAID = Path("/var/said")
_UNIT = f"""[Unit]
SuccessAction=exit-force
FailureAction=exit-force
After=multi-user.target

[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/bin/sh -e /root/script
StandardOutput=file:{_SAID}
StandardError=inherit
"""


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
        cgroups of its own.

        Raises:
            AssertionError: it failed.
        """
        argv = ("sh", "-ec", script)
        done = self._enter(argv, timeout_s=timeout_s, network=network, cgroup=cgroup)
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}"
        return done.stdout

    def boot(self, script: str, *, timeout_s: float) -> str:
        """Run a script as a service of the machine's systemd, which ends with it.

        Raises:
            AssertionError: it failed.
        """
        self.at(Path("/root/script")).write_text(script, "utf-8")
        units = self.at(Path("/etc/systemd/system"))
        (units / "script.service").write_text(_UNIT, "utf-8")
        dropped = ",".join(f"-{name}" for name in _DROPPED)
        argv = ["sh", "-ec", _READ_ONLY, "sh", "setpriv", f"--bounding-set={dropped}"]
        argv += ["env", "container=cryo", "/lib/systemd/systemd", "--unit=script.service"]
        done = self._enter(argv, timeout_s=timeout_s, network=False, cgroup=True)
        said = self.at(_SAID)
        text = said.read_text("utf-8") if said.exists() else ""
        assert done.returncode == 0, f"status {done.returncode}\n{text}\n{done.stdout}"
        return text

    def _enter(
        self, argv: Sequence[str], *, timeout_s: float, network: bool, cgroup: bool
    ) -> subprocess.CompletedProcess[str]:
        spaces = ["--mount", "--pid", "--ipc", "--uts", *(() if network else ("--net",))]
        spaces += ["--cgroup"] if cgroup else []
        enter = ["unshare", *spaces, "--fork", "--kill-child", "sh", "-c", _ENTER, "sh"]
        enter += [str(self.root), mounts("$root") if cgroup else ""]
        none: list[Path] = []
        cgroups: contextlib.AbstractContextManager[list[Path]]
        cgroups = own_cgroups() if cgroup else contextlib.nullcontext(none)
        with cgroups as folders:
            join = ["sh", "-ec", _JOIN, " ".join(map(str, folders))] if folders else []
            return subprocess.run(
                [*join, *enter, *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )

    def files(self) -> set[str]:
        """Return the paths of all files, directories and links."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}


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
