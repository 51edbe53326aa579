"""Whether this host backs the memory of a sandbox with huge pages."""

from __future__ import annotations

from pathlib import Path

from shim.errors import CryoError
from shim.host import files

_FOLDER = Path("/sys/kernel/mm/transparent_hugepage")
_MAX_BYTES = 4096
_OF_ITSELF = frozenset({"always", "within_size", "force"})
# With other settings runsc does not request them, because allocation would stall.
_ASKS_WITH = frozenset({"always", "defer", "never"})


def described(folder: Path = _FOLDER) -> str:
    """Describe in one line whether huge pages are used, and the settings that decide it.

    A freeze copies GPU memory into memory of the sandbox; 8 GiB took 3.8 s with huge pages and 7.4
    without (docs/gpu-results.md). Source of the rule: createMemoryFile in runsc/boot/loader.go.
    """
    shmem, defrag = (_chosen(folder / name) for name in ("shmem_enabled", "defrag"))
    used = shmem in _OF_ITSELF or (shmem == "advise" and defrag in _ASKS_WITH)
    how = f"shmem_enabled {shmem or 'unknown'}, defrag {defrag or 'unknown'}"
    return f"on ({how})" if used else f"off, so GPU memory freezes slowly ({how})"


def _chosen(path: Path) -> str:
    """Return the word in brackets; empty if there is no such setting."""
    try:
        text = files.read_bounded(path, _MAX_BYTES, nofollow=False).decode("utf-8", "replace")
    except CryoError:
        return ""
    return text.partition("[")[2].partition("]")[0]
