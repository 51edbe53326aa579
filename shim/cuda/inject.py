"""Adds the GPUs and cuda-checkpoint to a spec at create."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shim.config import Cuda, Timeouts
from shim.cuda import cdi, driver, inventory, native
from shim.cuda.cdi import Registry, Stat, host_node
from shim.cuda.inventory import Gpu
from shim.errors import HostMismatch, InvalidArgument, Refused
from shim.model import Value
from shim.oci.document import Spec, SpecMount
from shim.oci.edits import BindMount, DeviceNode, Edits, apply
from shim.oci.gpu import GPU_KIND, VISIBLE, GpuRequest
from shim.oci.rootfs import find_program

TOOL = "cuda-checkpoint"
_LIBRARY = re.compile(
    r"(?P<stem>/.*/lib(?:cuda|nvidia-ml|nvidia-ptxjitcompiler|cudadebugger))\.so\.[0-9]+\.[0-9.]+"
)
_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm")
_OPTIONAL = ("/dev/nvidia-uvm-tools",)
_SHOWN = 200
_USUAL = (
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/usr/local/cuda/bin",
    "/opt/cuda/bin",
    "/opt/nvidia/bin",
    "/opt/cuda-checkpoint",
)


class PreparedSpec(Value):
    """A spec as runsc gets it; unchanged if there is nothing to add.

    `gpu_wanted` is whether the sandbox needs nvproxy; `guest_tool` is the path of cuda-checkpoint
    in the container, empty if it has none.
    """

    spec: Spec
    gpu_wanted: bool = False
    guest_tool: str = ""
    warnings: tuple[str, ...] = ()


def find_tool(cuda: Cuda, search: str | None = None) -> str | None:
    """Find the host's cuda-checkpoint: the configured one, else the first on PATH or `search`.

    Raises:
        InvalidArgument: the configured one does not exist or is not executable.
    """
    if not cuda.tool:
        found = shutil.which(TOOL, path=search)
        return str(Path(found).resolve()) if found else None
    path = Path(cuda.tool)
    if path.is_absolute() and path.is_file() and os.access(path, os.X_OK):
        return str(path.resolve())
    message = f"cuda.tool {cuda.tool} is not the absolute path of an executable file"
    raise InvalidArgument(message, remedy="correct cuda.tool in the config, or remove it")


def find_helper(cuda: Cuda) -> str:
    """Return the path of cryo-cuda; empty if not built, disabled or not supported by the driver."""
    if cuda.helper == "never":
        return ""
    try:
        facts = driver.capabilities(inventory.read(cuda.nvidia_proc).driver)
    except Refused:
        return ""
    return native.path() if facts.driver_api else ""


def helper_in(spec: Spec) -> str:
    """Return the path of cryo-cuda in the container of a prepared spec, empty if it has none."""
    return next((m.destination for m in spec.mounts if Path(m.destination).name == native.NAME), "")


def prepare(
    spec: Spec,
    *,
    cuda: Cuda,
    tool: str | None,
    gpu: GpuRequest,
    recorded_tool: str = "",
    helper: str = "",
    recorded_helper: str | None = None,
    deadlines: Timeouts | None = None,
    stat: Stat = host_node,
) -> PreparedSpec:
    """Add the requested GPUs and cuda-checkpoint; a spec that is already prepared is unchanged.

    `tool` and `helper` are the host's cuda-checkpoint and cryo-cuda, if present. `recorded_tool`
    and `recorded_helper` are their guest paths in the image at a restore, empty if it has none:
    the mounts must be the saved ones, whatever this host's config. `deadlines` are for cryo-cuda
    when runsc starts it. The rootfs must be mounted, because it is searched.

    Raises:
        InvalidArgument: a requested GPU does not exist.
        Refused: GPUs were requested, and the container would get none.
        HostMismatch: the image needs a tool that this host does not have.
    """
    if not gpu.wanted:
        return PreparedSpec(spec=spec, warnings=(gpu.ignored,) if gpu.ignored else ())
    edits, warnings = _edits_or_warning(gpu, cuda, stat)
    with_gpu = apply(spec, edits)
    if not with_gpu.has_nvidia_devices:
        return PreparedSpec(spec=spec, warnings=_without_gpu(gpu, cuda, warnings))
    with_helper = _with_helper(with_gpu, cuda, helper or tool or "", helper, recorded_helper)
    done, guest_tool = _with_tool(with_helper, cuda, tool, recorded_tool)
    if deadlines is not None and helper_in(done):
        done = apply(done, Edits(env=_deadlines(deadlines)))
    # cryo-cuda replaces a missing cuda-checkpoint: it has the same command line.
    guest_tool = guest_tool or helper_in(done)
    return PreparedSpec(
        spec=done,
        gpu_wanted=True,
        guest_tool=guest_tool,
        warnings=warnings,
    )


def _edits_or_warning(gpu: GpuRequest, cuda: Cuda, stat: Stat) -> tuple[Edits, tuple[str, ...]]:
    """As `_gpu_edits`; with cuda.missing = "warn" a missing device is a warning."""
    try:
        return _gpu_edits(gpu, cuda, stat)
    except InvalidArgument as error:
        if cuda.missing == "refuse":
            raise
        return Edits(), (error.message,)


def _without_gpu(gpu: GpuRequest, cuda: Cuda, warnings: tuple[str, ...]) -> tuple[str, ...]:
    """Return the warnings for a container that runs without the GPUs that it requests.

    `all` in the environment usually comes from the image, as in those of nvidia/cuda, which also
    run on hosts without an NVIDIA driver: there the request need not be met.

    Raises:
        Refused: its own configuration requests them, or this host has a driver.
    """
    found = inventory.read(cuda.nvidia_proc).driver
    asked = f"the container asks for GPUs ({', '.join(gpu.devices)[:_SHOWN]})"
    if cuda.missing == "refuse" and (found or gpu.devices != ("all",) or gpu.source != "env"):
        why = f"; {warnings[0]}" if warnings else ""
        driver_is = f"with driver {found}" if found else "without an NVIDIA driver"
        message = f"{asked} and gets none on this host {driver_is}{why}"
        remedy = 'check that `nvidia-smi -L` lists them, or set cuda.missing = "warn"'
        raise Refused(message, remedy=remedy)
    return (*warnings, f"{asked} and runs without them: this host has none")


def _gpu_edits(gpu: GpuRequest, cuda: Cuda, stat: Stat) -> tuple[Edits, tuple[str, ...]]:
    if gpu.source == "devices":
        return Edits(), ()
    registry = cdi.read(cuda.cdi_dirs, stat)
    if gpu.source == "cdi":
        return _from_cdi(registry, gpu.devices)
    gpus = inventory.read(cuda.nvidia_proc).gpus
    if known := registry.names(GPU_KIND):
        wanted = _cdi_names(gpu.devices, known, gpus)
        return _from_cdi(registry, tuple(f"{GPU_KIND}={name}" for name in wanted))
    return _from_host(gpu.devices, gpus, stat)


def _from_cdi(registry: Registry, names: tuple[str, ...]) -> tuple[Edits, tuple[str, ...]]:
    """Return the edits of CDI devices, and a warning if they have hooks."""
    edits = registry.edits(names)
    if not edits.hooks:
        return edits, ()
    edits += Edits(mounts=_library_names(edits.mounts))
    hooks = ", ".join(dict.fromkeys(edits.hooks))
    return edits, (f"these CDI hooks have no effect in a sandbox and were left out: {hooks}",)


def _library_names(mounts: tuple[BindMount, ...]) -> tuple[BindMount, ...]:
    """Return mounts that give the driver's libraries the names that programs load.

    A CDI file mounts libcuda.so.580.65.06 and leaves libcuda.so.1 to a hook that runs ldconfig.
    """
    named = [(mount, _LIBRARY.fullmatch(mount.destination)) for mount in mounts]
    links = [
        msgspec.structs.replace(mount, destination=f"{found['stem']}.so.1")
        for mount, found in named
        if found is not None
    ]
    there = {mount.destination for mount in mounts}
    return tuple(link for link in links if link.destination not in there)


def _cdi_names(
    wanted: tuple[str, ...], known: tuple[str, ...], gpus: tuple[Gpu, ...]
) -> tuple[str, ...]:
    if wanted != ("all",):
        return tuple(_cdi_name(name, known, gpus) for name in wanted)
    return ("all",) if "all" in known else known


def _cdi_name(name: str, known: tuple[str, ...], gpus: tuple[Gpu, ...]) -> str:
    """Translate a UUID if the CDI file has only indices; other names are unchanged."""
    if name in known:
        return name
    indices = [str(at) for at, gpu in enumerate(gpus) if gpu.uuid == name]
    return next((index for index in indices if index in known), name)


def _from_host(
    wanted: tuple[str, ...], gpus: tuple[Gpu, ...], stat: Stat
) -> tuple[Edits, tuple[str, ...]]:
    """Add only the device nodes, with a warning: the image must have the driver's libraries."""
    if wanted == ("all",) and stat(_CONTROL[0]) is None:
        return Edits(), ()
    paths = (*_CONTROL, *(f"/dev/nvidia{minor}" for minor in _minors(wanted, gpus)))
    nodes = (*_nodes(paths, stat, optional=False), *_nodes(_OPTIONAL, stat, optional=True))
    warning = (
        "no CDI file describes the GPUs, so only their device nodes were added; "
        "for the driver's libraries run: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    )
    return Edits(devices=nodes), (warning,)


def _minors(wanted: tuple[str, ...], gpus: tuple[Gpu, ...]) -> list[int]:
    if wanted == ("all",):
        return [gpu.minor for gpu in gpus if gpu.minor >= 0]
    return [_minor(name, gpus) for name in wanted]


def _minor(name: str, gpus: tuple[Gpu, ...]) -> int:
    found = [gpu.minor for at, gpu in enumerate(gpus) if name in {str(at), gpu.uuid}]
    if found and found[0] >= 0:
        return found[0]
    there = ", ".join(f"{at} ({gpu.uuid})" for at, gpu in enumerate(gpus)) or "none"
    message = f"{VISIBLE} asks for GPU {name}; this host has {there}"
    raise InvalidArgument(message, remedy="request one of these, or all")


def _nodes(paths: tuple[str, ...], stat: Stat, *, optional: bool) -> Iterator[DeviceNode]:
    for path in paths:
        numbers = stat(path)
        if numbers is not None:
            yield DeviceNode(path=path, type=numbers.type, major=numbers.major, minor=numbers.minor)
        elif not optional:
            message = f"this host has no {path}"
            raise InvalidArgument(message, remedy="load the NVIDIA driver: nvidia-modprobe -u -c0")


def _deadlines(timeouts: Timeouts) -> tuple[str, ...]:
    """Return cryo-cuda's timeouts as variables: runsc's own engine passes it no options.

    The workload sees these variables too, so those with cryo-cuda's defaults are left out.
    """
    usual = Timeouts()
    wanted = (
        ("CRYO_CUDA_LOCK_MS", timeouts.lock, usual.lock),
        ("CRYO_CUDA_STEP_MS", timeouts.freeze, usual.freeze),
    )
    return tuple(
        f"{name}={max(1, int(timeout_s * 1000))}"
        for name, timeout_s, default_s in wanted
        if timeout_s != default_s
    )


def _with_helper(spec: Spec, cuda: Cuda, either: str, helper: str, recorded: str | None) -> Spec:
    """Mount cryo-cuda; if an image has it and this host does not, mount `either` in its place."""
    place = helper_in(spec) or (cuda.guest_helper if recorded is None else recorded)
    source = helper if recorded is None and not helper_in(spec) else either
    there = [m for m in spec.mounts if m.destination == place]
    if not place or (there and (spec.bundle / there[0].source).exists()):
        return spec
    if not source and (recorded or there):
        message = (
            f"the image needs {native.NAME} at {place}, and this host has no tool to mount there"
        )
        raise HostMismatch(
            message, remedy=f"install {TOOL}, or a Cryoshim that includes {native.NAME}"
        )
    if not source:
        return spec
    return apply(spec, Edits(mounts=(BindMount(destination=place, source=source),)))


def _with_tool(spec: Spec, cuda: Cuda, tool: str | None, recorded: str) -> tuple[Spec, str]:
    place = recorded or cuda.guest_tool
    mounted = _mounted_tool(spec, place)
    if mounted is not None:
        # A missing source comes from an image of a host that has the tool elsewhere.
        if (spec.bundle / mounted.source).exists() or (tool is None and not recorded):
            return spec, mounted.destination
        place = mounted.destination
    else:
        here = find_program(spec.rootfs, _candidates(spec, recorded))
        if here or (tool is None and not recorded):
            return spec, here
    if tool is None:
        message = f"the image needs {TOOL} at {place}, and this host does not have it"
        raise HostMismatch(message, remedy=f"install {TOOL}, or set cuda.tool in the config")
    mount = BindMount(destination=place, source=tool)
    return apply(spec, Edits(mounts=(mount,))), place


def _mounted_tool(spec: Spec, place: str) -> SpecMount | None:
    exact = [mount for mount in spec.mounts if mount.destination == place]
    named = [mount for mount in spec.mounts if Path(mount.destination).name == TOOL]
    return next(iter((*exact, *named)), None)


def _candidates(spec: Spec, recorded: str) -> list[str]:
    """List the paths in the rootfs where the tool may be, without those that a mount hides."""
    folders = (*_USUAL, *(spec.variable("PATH") or "").split(":"))
    usual = [f"{folder.rstrip('/')}/{TOOL}" for folder in folders if folder.startswith("/")]
    hiding = [mount.destination for mount in spec.mounts]
    names = dict.fromkeys([recorded] if recorded else usual)
    return [name for name in names if not _covered(name, hiding)]


def _covered(name: str, destinations: list[str]) -> bool:
    """Whether a mount hides that path of the rootfs."""
    return any(d != "/" and Path(name).is_relative_to(d) for d in destinations)
