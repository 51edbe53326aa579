"""A containerd with three runtimes: ours, gVisor's shim and runc's, with the same runsc."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.builds import find_program
from tests.containerd import image
from tests.containerd.builds import find_containerd
from tests.containerd.cryo import LAUNCHER, write_launcher
from tests.containerd.harness import Containerd
from tests.containerd.place import Place, private_place

LINE = "2.4"
FLAGS = {"network": "none", "ignore-cgroups": "true", "overlay2": "root:memory"}
CRYO, GVISOR, RUNC = "cryo", "runsc", "runc"
RUNTIMES = (CRYO, GVISOR, RUNC)
# gVisor's shim hangs in a plain run without a terminal: it reads a pipe to the end that the sandbox
# keeps open. It does not for a pod's sandbox.
SANDBOX = "io.kubernetes.cri.container-type=sandbox"
_PATHS = ("state", "images", "verified", "scratch")


@dataclass(frozen=True)
class Node:
    """A containerd in a namespace of its own, and what a part of a case inside is given."""

    place: Place
    containerd: Containerd
    given: Mapping[str, Any]


@contextmanager
def node(runsc: Path) -> Iterator[Node]:
    """Start containerd with all runtimes, and import the image."""
    with tempfile.TemporaryDirectory(prefix="cryo-bench-") as name, private_place() as place:
        folder = Path(name)
        ours, theirs = _settings(folder, runsc)
        programs = {
            LAUNCHER: write_launcher(folder),
            "runsc": runsc,
            "runc": find_program("runc"),
            "criu": criu(),
            "containerd-shim-runsc-v1": find_program("gvisor-shim"),
        }
        env = {"CRYO_CONFIG": str(ours), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        with Containerd(find_containerd(LINE), place, programs=programs, env=env) as containerd:
            archive = containerd.folder / "image.tar"
            image.write(archive, find_program("busybox"))
            containerd.import_image(archive)
            given = {
                "ctr": containerd.ctr_argv(),
                "env": dict(containerd.env),
                "runsc_toml": str(theirs),
                "criu_conf": str(folder / "criu.conf"),
                "folder": str(containerd.folder),
                "address": str(containerd.address),
                "busybox": str(find_program("busybox")),
                "runsc": str(runsc),
                "runsc_flags": [f"--{key}={value}" for key, value in FLAGS.items()],
                "cryo": str(programs[LAUNCHER]),
                "cryo_env": env,
                "gvisor": str(programs["containerd-shim-runsc-v1"]),
            }
            yield Node(place, containerd, given)


def criu() -> Path:
    """Return the CRIU that runc is to use: that of `make tools`, or the one that CRYO_CRIU names.

    Debian 12 has one that does not know the vDSO of newer kernels.
    """
    named = os.environ.get("CRYO_CRIU")
    return Path(named) if named else find_program("criu")


def _settings(folder: Path, runsc: Path) -> tuple[Path, Path]:
    """Write our settings, and those of gVisor's shim."""
    flags = "\n".join(f'{key} = "{value}"' for key, value in FLAGS.items())
    paths = "\n".join(f'{key} = "{folder / key}"' for key in _PATHS)
    # Otherwise CRIU closes the network of the container meanwhile, for which it needs iptables.
    (folder / "criu.conf").write_text("network-lock skip\n", "utf-8")
    ours, theirs = folder / "cryo.toml", folder / "runsc.toml"
    ours.write_text(
        f'[paths]\n{paths}\n[runsc]\nbinary = "{runsc}"\n[runsc.flags]\n{flags}\n', "utf-8"
    )
    theirs.write_text(f'binary_name = "{runsc}"\n[runsc_config]\n{flags}\n', "utf-8")
    return ours, theirs
