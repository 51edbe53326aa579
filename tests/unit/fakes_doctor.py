"""A machine on which all is well, made of real files and programs; faults are planted in it."""

from __future__ import annotations

import socket
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from shim.config import Config, Cuda, Paths, Runsc
from shim.doctor import features
from shim.doctor.disk import Space, Write
from shim.doctor.host import Host
from shim.errors import CryoError
from shim.oci.annotation_names import PREFIX
from tests.unit import fakes_help
from tests.unit.fakes_runsc import Script
from tests.unit.test_cuda_inventory import GPU

DRIVER = "580.159.04"
NVIDIA_SMI = "GPU-1, [N/A], Enabled, 81559, 1024\n"
TOP = f"{fakes_help.TOP_OLD}  -sidecar-usage-policy value\n    \tpolicy\n"
DRIVERS = f"570.195.03\n{DRIVER}\n610.57.04\n"
MEMORY = "MemTotal:  263192576 kB\nMemAvailable:  230000000 kB\n"
MOUNTS = (
    "22 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n"
    "30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
)
HANDLER = f"""\
version = 3

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.cryo]
  runtime_type = "io.containerd.cryo.v1"
  pod_annotations = ["{PREFIX}*"]
  container_annotations = ["{PREFIX}*"]
"""
CONTAINERD_PID = 77
FILES = {
    "proc/self/mountinfo": MOUNTS,
    "proc/meminfo": MEMORY,
    "proc/stat": "cpu 1 2 3\nbtime 1700000000\n",
    "proc/locks": "",
    "proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno allow\n",
    "proc/sys/user/max_user_namespaces": "96364\n",
    f"proc/{CONTAINERD_PID}/comm": "containerd\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma misc\n",
    "sys/kernel/mm/transparent_hugepage/shmem_enabled": "always within_size [advise] never deny\n",
    "sys/kernel/mm/transparent_hugepage/defrag": "always [defer] defer+madvise madvise never\n",
    "etc/containerd/config.toml": 'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n',
    "etc/containerd/conf.d/cryo.toml": HANDLER,
    "dev/nvidiactl": "",
    "dev/nvidia-uvm": "",
    "dev/nvidia3": "",
    "nvidia/version": f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {DRIVER}  Tue\n",
    "nvidia/gpus/0000:8a:00.0/information": GPU,
}


class FakeDisk:
    """A disk whose space and speed a test chooses."""

    def __init__(self) -> None:
        self.found = Space(bytes=100 << 30, files=1_000_000, in_memory=False)
        self.written = Write(bytes_per_s=500 << 20, direct=True)
        self.error: CryoError | None = None

    def space(self, folder: Path) -> Space:
        return self.found

    def write(self, folder: Path) -> Write:
        if self.error is not None:
            raise self.error
        return self.written


class Machine:
    """Files below `root`, programs in `bin`, folders of this project, and a socket that listens."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.disk = FakeDisk()
        self.uid = 0
        self.machine = "x86_64"
        self.features: dict[str, Callable[[], bool]] = dict.fromkeys(features.PROBES, lambda: True)
        self.settings_error: CryoError | None = None
        self.socket = root / "run" / "cryo.sock"
        for name, text in FILES.items():
            self.write(name, text)
        for name in ("images", "state", "scratch", "run"):
            (root / name).mkdir(mode=0o700)
        self.listener = self.listen(self.socket)
        self.runsc = self._installed_runsc()
        self.program("containerd", "echo 'containerd github.com/containerd v2.4.2 abc'")
        self.smi(NVIDIA_SMI)
        self._install_shim()
        self._start_containerd()
        self.config = Config(
            paths=Paths(
                images=str(root / "images"),
                state=str(root / "state"),
                scratch=str(root / "scratch"),
            ),
            runsc=Runsc(binary=str(self.runsc.path), flags={"nvproxy": "true"}),
            cuda=Cuda(
                nvidia_proc=str(root / "nvidia"),
                nvidia_smi=str(self.bin / "nvidia-smi"),
                tool=str(self.program("cuda-checkpoint", "exit 0")),
                cdi_dirs=(str(root / "cdi"),),
            ),
        )

    @property
    def host(self) -> Host:
        """Give the machine as the checks see it."""
        return Host(
            config=self.config,
            settings_path="/etc/cryo/config.toml",
            settings_error=self.settings_error,
            socket=self.socket,
            root=self.root,
            search=str(self.bin),
            uid=self.uid,
            machine=self.machine,
            release="6.18.0",
            features=self.features,
            disk=self.disk,
        )

    def write(self, name: str, text: str) -> Path:
        """Write a file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def program(self, name: str, shell: str) -> Path:
        """Put a program on the PATH."""
        path = self.write(f"bin/{name}", f"#!/bin/sh\n{shell}\n")
        path.chmod(0o755)
        return path

    def smi(self, rows: str) -> None:
        """Let nvidia-smi print these rows."""
        self.program("nvidia-smi", f"printf %s '{rows}'")

    def settings(self, section: str, **values: object) -> None:
        """Change settings of a section of config.toml."""
        changed = msgspec.structs.replace(getattr(self.config, section), **values)
        self.config = msgspec.structs.replace(self.config, **{section: changed})

    def flags(self, **flags: str) -> None:
        """Set flags of runsc, with `_` for `-`."""
        given = {name.replace("_", "-"): value for name, value in flags.items()}
        self.settings("runsc", flags={**self.config.runsc.flags, **given})

    def lacks(self, feature: str) -> None:
        """Take a feature of the kernel away."""
        self.features[feature] = lambda: False

    def listen(self, path: Path) -> socket.socket:
        """Listen on a socket, as a sidecar does."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        return listener

    def close(self) -> None:
        """Close the socket, which leaves its file."""
        self.listener.close()

    def older_runsc(self) -> None:
        """Replace runsc with 20240729, which supports no driver of 2026."""
        self.runsc = fakes_help.answering(self.root / "runsc", new=False)
        self.runsc.prints("nvproxy", "535.104.12\n550.90.07\n")

    def _installed_runsc(self) -> Script:
        folder = self.root / "runsc"
        folder.mkdir()
        made = fakes_help.answering(folder)
        made.prints("--version", "runsc version release-20260905.0\nspec: 1.2.1\n")
        made.prints("flags", err=TOP)
        made.prints("nvproxy", DRIVERS)
        sentry = self.write("runsc/gvisor-bin/gvisor_sentry", "")
        sentry.chmod(sentry.stat().st_mode | stat.S_IXUSR)
        return made

    def _install_shim(self) -> None:
        for name in ("containerd-shim-cryo-v1", "containerd-shim-cryo-v1-python"):
            self.write(f"opt/{name}", "").chmod(0o755)
        self.shim = self.bin / "containerd-shim-cryo-v1"
        self.shim.symlink_to(self.root / "opt" / self.shim.name)

    def _start_containerd(self) -> None:
        here = f"proc/{CONTAINERD_PID}"
        self.write(f"{here}/cmdline", "containerd\0")
        self.write(f"{here}/environ", f"LANG=C\0PATH={self.bin}\0")
        fields = " ".join(["0"] * 18)
        # Started long after the files of this test were written.
        self.write(f"{here}/stat", f"{CONTAINERD_PID} (containerd) S {fields} {10**12} 0 0\n")
        (self.root / here / "exe").symlink_to(self.bin / "containerd")
