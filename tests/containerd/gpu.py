"""Containers with a simulated GPU under containerd, in the simulation's own namespace."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shim.simgpu import bundle, tools
from shim.simgpu.bundle import Settings
from shim.simgpu.guest import names
from shim.simgpu.machine import Machine
from shim.simgpu.remote import Ran
from shim.simgpu.simulation import Simulation
from tests.containerd.daemon import numbers
from tests.containerd.harness import Containerd
from tests.containerd.image import REFERENCE
from tests.containerd.place import Place, settle
from tests.containerd.records.client import edit_spec

CDI_ENV = "NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0"


def place_of(sim: Simulation) -> Place:
    """Prepare a simulation's namespace for containerd; once for each simulation."""
    return settle(sim.folder, sim.remote)


class CtrGuest:
    """Runs programs in containers with `ctr tasks exec`, for queries of the simulation."""

    def __init__(self, containerd: Containerd) -> None:
        self._containerd = containerd

    def exec(self, name: str, argv: Sequence[str], *, timeout_s: float = 20.0) -> Ran:
        """Run a program and wait for its exit."""
        exec_id = f"ask-{next(numbers)}"
        command = ("tasks", "exec", "--exec-id", exec_id, name, *argv)
        return self._containerd.ctr(*command, check=False, timeout_s=timeout_s)


def write_spec(
    sim: Simulation,
    containerd: Containerd,
    name: str,
    settings: Settings | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Path:
    """Write the spec of a workload for `ctr run --config PATH NAME`: no image, no snapshot.

    It does not mount cuda-checkpoint: our shim does.
    """
    folder = sim.bundle(name, settings, inject_tool=False)
    path = folder / "config.json"
    content = json.loads(path.read_text("utf-8"))
    content["annotations"] = dict(annotations or {})
    content["linux"]["cgroupsPath"] = f"/{containerd.cgroup}/{name}"
    path.write_text(json.dumps(content), "utf-8")
    return path


def image_flags(sim: Machine) -> tuple[str, ...]:
    """Return the flags of `ctr run` for a workload in a container of the small image.

    For commands that need an image and a snapshot, such as `ctr containers checkpoint --image`.
    The command is `workload(settings)`.
    """
    mounts = [f"type=bind,src={src},dst={dst},options=rbind:{how}" for src, dst, how in binds(sim)]
    # Sockets on the guest's own tmpfs survive a save.
    mounts.append("type=tmpfs,src=tmpfs,dst=/tmp,options=mode=1777")
    return tuple(word for mount in mounts for word in ("--mount", mount))


def volume_flags(sim: Machine) -> tuple[str, ...]:
    """Return the flags of `docker run` and `nerdctl run` for such a workload."""
    volumes = [word for bind in binds(sim) for word in ("--volume", ":".join(map(str, bind)))]
    return (*volumes, "--tmpfs", "/tmp:rw,exec,mode=1777")


def binds(sim: Machine) -> list[tuple[Path, str, str]]:
    """List what is bind-mounted for a workload, with the host's Python: source, target, `ro`."""
    wanted = ["/usr", "/lib", "/lib64", sys.base_prefix, sys.base_exec_prefix]
    wanted.append(str(Path(tools.interpreter()).parent.parent))
    found = [(Path(point), point, "ro") for point in wanted if Path(point).exists()]
    found.append((sim.folder / "code", names.CODE_DIR, "ro"))
    found.append((sim.folder / "device", names.DEVICE_DIR, "rw"))
    return list(dict.fromkeys(found))


def cdi_settings(sim: Simulation, folder: Path) -> dict[str, Any]:
    """Write a CDI file with the simulated GPU; return the settings of cuda with its directory.

    A container gets the GPU by the variable in `CDI_ENV`, whichever client starts it.
    """
    folder.mkdir()
    device = {"name": "0", "containerEdits": {"deviceNodes": [dict(bundle.CONTROL)]}}
    content = {"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [device]}
    (folder / "nvidia.json").write_text(json.dumps(content), "utf-8")
    return {**sim.settings_of_cuda(), "cdi_dirs": [str(folder)]}


def start_on_image(
    sim: Simulation,
    containerd: Containerd,
    name: str,
    *,
    runtime: str,
    settings: Settings | None = None,
    reference: str = REFERENCE,
    annotations: Mapping[str, str] | None = None,
) -> None:
    """Run a workload in a container of the small image, which has a snapshot too.

    `ctr run --device` would use the device number of the simulated node, but gVisor identifies
    GPUs by NVIDIA's numbers.
    """
    how = ["--runtime", runtime, "--snapshotter", "native", *image_flags(sim)]
    how += [
        word for item in (annotations or {}).items() for word in ("--annotation", "=".join(item))
    ]
    containerd.ctr("containers", "create", *how, reference, name, *workload(settings))
    edit_spec(containerd.address, containerd.namespace, name, give_gpu)
    containerd.ctr("tasks", "start", "--detach", name)


def give_gpu(spec: dict[str, Any]) -> None:
    """Add the device node with NVIDIA's number to a container."""
    spec["linux"].setdefault("devices", []).append(dict(bundle.CONTROL))


def workload(settings: Settings | None = None) -> list[str]:
    """Return the command of a workload."""
    return bundle.workload_argv(json.dumps(asdict(settings or Settings())))
