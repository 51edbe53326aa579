"""Writes the simulation's files: tools, the driver's /proc tree, the guest's code."""

from __future__ import annotations

import marshal
import os
import py_compile
import shutil
import sys
from importlib import resources
from pathlib import Path

import shim.simgpu.guest as guest_package
from shim.simgpu import gpu

_SEARCHED = ":".join(
    f"{top}/{end}"
    for top in ("", "/usr", "/usr/local", "/usr/local/cuda", "/opt/cuda", "/opt/nvidia")
    for end in ("bin", "sbin")
)


def interpreter() -> str:
    """Return the host's Python, with the links of a virtual environment resolved."""
    return os.path.realpath(sys.executable)


def _program(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    path.chmod(0o755)
    return path


def libcuda() -> Path:
    """Return the path of the stand-in for libcuda.so.1, which exists if it was built."""
    return Path(str(resources.files("shim.simgpu"))) / "bin" / "libcuda.so.1"


def write_libcuda(folder: Path) -> Path | None:
    """Copy the stand-in for libcuda.so.1 into a directory; None if it was not built."""
    return Path(shutil.copy(libcuda(), folder)) if libcuda().exists() else None


def write_cuda_checkpoint(folder: Path, driver: int) -> Path:
    """Install the stand-in for cuda-checkpoint, with the features of a driver version."""
    source = resources.files(guest_package).joinpath("cuda_checkpoint.py").read_text("utf-8")
    text = source.replace("DRIVER = 570\n", f"DRIVER = {driver}\n", 1)
    # Compiled here, for the same interpreter: saves a tenth of the tool's time in a sandbox.
    code = marshal.dumps(compile(text, "cuda_checkpoint.py", "exec"))
    # One argument: the kernel passes everything after the interpreter as a single argument.
    lines = (f"#!{interpreter()} -ISB", "import marshal", f"exec(marshal.loads({code!r}))", "")
    return _program(folder / "cuda-checkpoint", "\n".join(lines))


def write_nvidia_smi(folder: Path, package_root: Path, device_socket: Path) -> Path:
    """Install the stand-in for nvidia-smi."""
    lines = (
        f"#!{interpreter()} -ISB",
        "import sys",
        f"sys.path.insert(0, {str(package_root)!r})",
        "from shim.simgpu.nvidia_smi import main",
        f"sys.exit(main({str(device_socket)!r}, sys.argv[1:]))",
        "",
    )
    return _program(folder / "nvidia-smi", "\n".join(lines))


def write_nvidia_proc(folder: Path, driver: int) -> Path:
    """Write a tree like the real driver's /proc/driver/nvidia."""
    version = gpu.DRIVERS[driver]
    place = folder / "gpus" / gpu.BUS
    place.mkdir(parents=True, exist_ok=True)
    (folder / "version").write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Thu Jan  1 00:00:00 UTC 2026\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
        "utf-8",
    )
    fields = {
        "Model": gpu.MODEL,
        "IRQ": "0",
        "GPU UUID": gpu.UUID,
        "Video BIOS": "00.00.00.00.00",
        "Bus Type": "PCIe",
        "DMA Size": "47 bits",
        "DMA Mask": "0x7fffffffffff",
        "Bus Location": gpu.BUS,
        "Device Minor": "0",
        "GPU Firmware": version,
        "GPU Excluded": "No",
    }
    text = "".join(f"{name + ':':<16} {value}\n" for name, value in fields.items())
    (place / "information").write_text(text, "utf-8")
    return folder


def write_guest_code(folder: Path) -> Path:
    """Copy and compile the guest's programs into a directory to bind-mount, and return it."""
    package = folder / "shim" / "simgpu" / "guest"
    package.mkdir(parents=True, exist_ok=True)
    (folder / "shim" / "__init__.py").touch()
    (folder / "shim" / "simgpu" / "__init__.py").touch()
    for entry in resources.files(guest_package).iterdir():
        if entry.name.endswith(".py"):
            target = package / entry.name
            target.write_text(entry.read_text("utf-8"), "utf-8")
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(target), doraise=True, invalidation_mode=mode)
    launcher = (
        "import sys",
        "sys.path.insert(0, __file__.rpartition('/')[0])",
        "from shim.simgpu.guest.workload import main",
        "sys.exit(main(sys.argv[1:]))",
        "",
    )
    (folder / "workload.py").write_text("\n".join(launcher), "utf-8")
    return folder


def host_has_cuda_checkpoint() -> bool:
    """Whether a container whose rootfs is the host's `/` would find a real cuda-checkpoint."""
    return shutil.which("cuda-checkpoint", path=_SEARCHED) is not None
