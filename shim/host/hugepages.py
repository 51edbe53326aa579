"""Whether this host backs the memory of a sandbox with huge pages, and what makes it do so."""

from __future__ import annotations

from pathlib import Path

from shim.errors import CryoError
from shim.host import files
from shim.host.oserror import typed

_FOLDER = Path("/sys/kernel/mm/transparent_hugepage")
_MAX_BYTES = 4096
_SHMEM, _DEFRAG = "shmem_enabled", "defrag"
_OF_ITSELF = frozenset({"always", "within_size", "force"})
# With other settings runsc does not request them, because allocation would stall.
_ASKS_WITH = frozenset({"always", "defer", "never"})
# What `adjust` sets: the memory of a sandbox may have huge pages, and nothing waits for one.
_WANTED = {_SHMEM: "advise", _DEFRAG: "defer"}


def are_used(folder: Path = _FOLDER) -> bool:
    """Return whether runsc gets huge pages. Its rule: createMemoryFile in runsc/boot/loader.go."""
    shmem, defrag = (_chosen(folder / name) for name in (_SHMEM, _DEFRAG))
    return shmem in _OF_ITSELF or (shmem == "advise" and defrag in _ASKS_WITH)


def described(folder: Path = _FOLDER) -> str:
    """Describe in one line whether huge pages are used, and the settings that decide it.

    A freeze copies GPU memory into memory of the sandbox; 8 GiB took 3.8 s with huge pages and 7.4
    without (docs/gpu-results.md).
    """
    shmem, defrag = (_chosen(folder / name) for name in (_SHMEM, _DEFRAG))
    how = f"{_SHMEM} {shmem or 'unknown'}, {_DEFRAG} {defrag or 'unknown'}"
    return f"on ({how})" if are_used(folder) else f"off, so GPU memory freezes slowly ({how})"


def adjust(folder: Path = _FOLDER) -> str:
    """Set what is missing for huge pages; return what was changed, or an empty text.

    Raises:
        CryoError: a setting cannot be written, as where /sys is read-only.
    """
    if are_used(folder):
        return ""
    changed = []
    for name, wanted in _WANTED.items():
        before = _chosen(folder / name)
        if before == wanted or (name == _DEFRAG and before in _ASKS_WITH):
            continue
        _write(folder / name, wanted)
        changed.append(f"{name} from {before or 'unknown'} to {wanted}")
    return f"{folder}: set {', '.join(changed)}" if changed else ""


def _write(path: Path, text: str) -> None:
    try:
        with path.open("r+", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise typed(error, f"write {path}") from error


def _chosen(path: Path) -> str:
    """Return the word in brackets; empty if there is no such setting."""
    try:
        text = files.read_bounded(path, _MAX_BYTES, nofollow=False).decode("utf-8", "replace")
    except CryoError:
        return ""
    return text.partition("[")[2].partition("]")[0]
