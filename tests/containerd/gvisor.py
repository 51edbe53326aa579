"""gVisor's own containerd shim, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.builds import find_program
from tests.containerd.harness import Containerd

RUNTIME = "io.containerd.runsc.v1"
SHIM = "containerd-shim-runsc-v1"
FLAGS = {"network": "none", "ignore-cgroups": "true", "overlay2": "root:memory"}


# Without it the shim hangs in create, unless the container has a terminal: it reads the pipe of
# `runsc create` to its end, and the sandbox keeps that pipe. The first container of a pod works.
ANNOTATIONS = {"io.kubernetes.cri.container-type": "sandbox"}


def programs(runsc: Path) -> dict[str, Path]:
    """Return the programs that containerd needs on its PATH.

    Raises:
        NotHere: the shim could not be built.
    """
    return {SHIM: find_program("gvisor-shim"), "runsc": runsc}


def config_flags(containerd: Containerd, flags: Mapping[str, str] = FLAGS) -> tuple[str, ...]:
    """Write the shim's config, and return the flags of `ctr run` that name it."""
    path = containerd.folder / "runsc.toml"
    lines = [f'  {name} = "{value}"' for name, value in flags.items()]
    path.write_text("\n".join(["[runsc_config]", *lines, ""]), "utf-8")
    return ("--runtime-config-path", str(path))


def run_flags(containerd: Containerd, flags: Mapping[str, str] = FLAGS) -> tuple[str, ...]:
    """Return all flags of `ctr run` that the shim needs.

    The exit code of such a container is sometimes 128 instead of its own.
    """
    pairs = [f"{key}={value}" for key, value in ANNOTATIONS.items()]
    marks = [word for pair in pairs for word in ("--annotation", pair)]
    return (*config_flags(containerd, flags), *marks)
