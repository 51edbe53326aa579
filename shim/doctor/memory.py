"""Checks the host's memory: huge pages for sandboxes, and room for the memory of the GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from shim.cuda import inventory
from shim.doctor.host import Host
from shim.finding import Area, Finding, Topic
from shim.host import hugepages
from shim.host.sizes import size

_MEMORY = Topic(Area.SYSTEM, "memory")
_FREEZE = Topic(Area.SYSTEM, "memory for a freeze")
_PAGES = Topic(Area.SYSTEM, "huge pages")
_THP = "/sys/kernel/mm/transparent_hugepage"
# A sandbox, its gofer and the owner process.
_LEAST_BYTES = 256 << 20


def check(host: Host) -> Iterator[Finding]:
    """Check the free memory and huge pages."""
    found = _meminfo(host)
    free, total = found.get("MemAvailable", 0), found.get("MemTotal", 0)
    if free < _LEAST_BYTES:
        yield _MEMORY.failure(f"{size(free)} of {size(total)} are available", "free host memory")
    else:
        yield _MEMORY.ok(f"{size(free)} of {size(total)} are available")
    yield _huge_pages(host)


def _huge_pages(host: Host) -> Finding:
    folder, wanted = host.at(_THP), host.config.host.huge_pages
    text = hugepages.described(folder)
    has_gpu = bool(inventory.read(host.config.cuda.nvidia_proc).gpus)
    if hugepages.are_used(folder) or wanted == "ignore" or not has_gpu:
        return _PAGES.ok(text)
    if wanted == "adjust":
        return _PAGES.ok(f"{text}; cryo serve sets them")
    return _PAGES.warning(text, 'set huge_pages = "adjust" under [host] in config.toml')


def check_freeze(host: Host, gpu_bytes: int, used_bytes: int) -> Iterator[Finding]:
    """Check that the memory of a GPU fits into the host's: a freeze copies it there."""
    found = _meminfo(host)
    free, total = found.get("MemAvailable", 0), found.get("MemTotal", 0)
    if used_bytes > free:
        yield _FREEZE.warning(
            f"GPU memory in use is {size(used_bytes)}, and the host has {size(free)} available: "
            "not all of it can be frozen",
            "free host memory, or freeze fewer tasks at a time",
        )
    elif gpu_bytes > total:
        yield _FREEZE.warning(
            f"a GPU has {size(gpu_bytes)}, and the host {size(total)}: a task that uses all of "
            "it cannot be frozen",
            "use a host with more memory than the GPU",
        )
    else:
        yield _FREEZE.ok(f"{size(used_bytes)} of GPU memory in use, {size(free)} available")


def _meminfo(host: Host) -> dict[str, int]:
    """Return the numbers of /proc/meminfo in bytes."""
    pairs = (line.partition(":") for line in host.text("/proc/meminfo").splitlines())
    return {name: int(text.split()[0]) << 10 for name, _, text in pairs if text.split()}
