"""The shared libraries of a bundle: those that its programs and extension modules load."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = "libs"
LOADER = "ld.so"
_LDD_S = 60.0
_ELF = b"\x7fELF"


def copy(folder: Path) -> None:
    """Copy the libraries of every program and extension module of a bundle, and the loader.

    Raises:
        FileNotFoundError: a library is not installed.
    """
    libraries = folder / LIBRARIES
    libraries.mkdir()
    for path in [path for path in folder.rglob("*") if path.is_file() and _is_elf(path)]:
        for name, source in needed(path):
            if not (libraries / name).exists():
                shutil.copy2(source, libraries / name)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _ELF


def needed(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of each library that a file needs.

    Raises:
        FileNotFoundError: one is not installed.
    """
    listed = subprocess.run(
        ["ldd", str(path)], capture_output=True, text=True, timeout=_LDD_S, check=False
    ).stdout
    for line in listed.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if "not found" in rest:
            message = f"{path} needs {name}, which is not installed"
            raise FileNotFoundError(message)
        where = (rest if arrow else name).split(" (")[0]
        if where.startswith("/"):
            yield (Path(name).name if arrow else LOADER), Path(where)
