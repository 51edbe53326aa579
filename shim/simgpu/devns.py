"""A private mount namespace with a /dev in which gVisor finds an NVIDIA device node.

The node is a second node of the kernel's random device, because nvproxy requires a pollable device.
The host's own /dev is not changed, and everything here disappears with the namespace.

    python -m shim.simgpu.devns [--rootfs DIR] -- COMMAND...
"""

from __future__ import annotations

import argparse
import ctypes
import os
import stat
from pathlib import Path
from tempfile import mkdtemp

_CLONE_NEWNS = 0x00020000
_MNT_DETACH = 2
_MS_BIND = 4096
_MS_MOVE = 8192
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "nvidiactl": (1, 8),
}
_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    result = _libc().mount(
        source.encode(), bytes(target), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _check(result, f"mount {target}")


def _fill(folder: Path) -> None:
    """Create the device nodes in an empty tmpfs."""
    previous = os.umask(0)
    try:
        for name, (major, minor) in _NODES.items():
            os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    finally:
        os.umask(previous)
    for name in ("pts", "shm"):
        (folder / name).mkdir()
        _mount(f"/dev/{name}", folder / name, "", _MS_BIND)
    for name, target in _LINKS.items():
        (folder / name).symlink_to(target)


def enter(rootfs: Path | None = None, *, host_dev: bool = False) -> None:
    """Move this single-threaded process into a new namespace; mount a copy of `/` at `rootfs`.

    With `host_dev` the host's /dev is kept, for a real GPU.

    Raises:
        OSError: the process is not root, or runs in a container that may not mount.
    """
    _check(_libc().unshare(_CLONE_NEWNS), "unshare")
    _mount("none", Path("/"), "", _MS_REC | _MS_PRIVATE)
    if not host_dev:
        _replace_dev()
    if rootfs is not None:
        _mount_rootfs(rootfs)


def _replace_dev() -> None:
    # Filled elsewhere, then moved: a tmpfs on /dev would hide the directories to bind-mount.
    folder = Path(mkdtemp(prefix="simgpu-dev-"))
    _mount("tmpfs", folder, "tmpfs", 0, "mode=755,size=1m")
    _fill(folder)
    _mount(str(folder), Path("/dev"), "", _MS_MOVE)
    folder.rmdir()


def _mount_rootfs(rootfs: Path) -> None:
    """Mount the host's root filesystem for containers, as an overlay that keeps writes in memory.

    Not `/` itself: gVisor's own bind mounts below it would not be visible. Not a bind mount of `/`:
    gVisor creates missing mount points in the rootfs, and would create them on the host.
    """
    layers = Path(mkdtemp(prefix="simgpu-layers-"))
    _mount("tmpfs", layers, "tmpfs", 0, "mode=755,size=16m")
    (layers / "upper").mkdir()
    (layers / "work").mkdir()
    options = f"lowerdir=/,upperdir={layers}/upper,workdir={layers}/work"
    _mount("overlay", rootfs, "overlay", 0, options)
    _check(_libc().umount2(bytes(layers), _MNT_DETACH), "umount")
    layers.rmdir()


def main() -> None:
    """Run a command in the namespace."""
    parser = argparse.ArgumentParser(prog="simgpu-devns", description="A private /dev with a GPU.")
    parser.add_argument("--rootfs", type=Path)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    enter(options.rootfs)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
