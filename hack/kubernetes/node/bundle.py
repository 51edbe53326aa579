"""Writes a bundle: the shim with its dependencies, its Python and the C library that this needs.

A node may have no Python, or another C library than the machine that made the bundle. So the
bundle contains the interpreter that runs this module, the installed distribution `cryoshim` with
what it requires, every shared library that these load, and the dynamic loader.

    python3 -m hack.kubernetes.node.bundle DIRECTORY
"""

from __future__ import annotations

import compileall
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import shim

DISTRIBUTION = "cryoshim"
VERSION = "VERSION"
LIBRARIES = "libs"
LOADER = "ld.so"
INTERPRETER = "bin/python3.real"
# The launcher in C, where it was built and needs no library, which a node may lack.
NATIVE = "shim/entry/shimbin/bin/containerd-shim-cryo-v1"
# Parts of the standard library that no server needs, and that are large or need more libraries.
_LEFT_OUT = (
    *("config-*", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test"),
    *("tkinter", "turtledemo", "venv", "_tkinter.*", "_dbm.*", "_gdbm.*", "_curses*", "readline.*"),
    *("_sqlite3.*", "sqlite3", "nis.*", "_test*", "xxlimited*"),
)
# As in the wheel: these are of another distribution.
_NOT_INSTALLED = ("selftest", "simgpu", "standin")
_LDD_S = 60.0
_ELF = b"\x7fELF"


def write(folder: Path) -> str:
    """Write the bundle into a directory that must not exist; return its version."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    library = folder / "lib" / stdlib.name
    shutil.copytree(stdlib, library, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    packages = library / "site-packages"
    packages.mkdir()
    for name in sorted(closure(DISTRIBUTION) - {DISTRIBUTION}):
        _copy_distribution(name, packages)
    left_out = shutil.ignore_patterns(*_NOT_INSTALLED)
    shutil.copytree(Path(shim.__file__).parent, packages / "shim", ignore=left_out)
    if (packages / NATIVE).exists() and any(_needed(packages / NATIVE)):
        (packages / NATIVE).unlink()
    _copy(Path(sys.executable).resolve(), folder / INTERPRETER)
    _copy_libraries(folder)
    compileall.compile_dir(library, quiet=2)
    version = f"{shim.__version__}-{digest(folder)[:12]}"
    (folder / VERSION).write_text(f"{version}\n", "utf-8")
    return version


def launch(place: Path) -> list[str]:
    """Return the command line that starts the interpreter of a bundle at this place."""
    libraries = place / LIBRARIES
    loader = [str(libraries / LOADER), "--argv0", f"{place}/bin/python3"]
    return [*loader, "--library-path", str(libraries), str(place / INTERPRETER)]


def closure(name: str) -> set[str]:
    """Return a distribution and all that it requires, without its extras."""
    found = {name}
    for line in metadata.requires(name) or []:
        requirement, _, marker = line.partition(";")
        matched = re.match(r"[A-Za-z0-9._-]+", requirement)
        if matched and "extra" not in marker and "python_version" not in marker:
            found |= closure(matched[0])
    return found


def _copy_distribution(name: str, packages: Path) -> None:
    for file in metadata.files(name) or []:
        if ".." not in file.parts and "tests" not in file.parts:
            _copy(Path(str(file.locate())), packages / file)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _copy_libraries(folder: Path) -> None:
    """Copy the libraries of every program and extension module, and the loader.

    Raises:
        FileNotFoundError: a library is not installed.
    """
    libraries = folder / LIBRARIES
    libraries.mkdir()
    for path in [path for path in folder.rglob("*") if path.is_file() and _is_elf(path)]:
        for name, source in _needed(path):
            if not (libraries / name).exists():
                _copy(source, libraries / name)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _ELF


def _needed(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of each library that a file needs."""
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


def digest(folder: Path) -> str:
    """Return a digest of the names, the modes and the contents of all files, but compiled ones."""
    hasher = hashlib.blake2b(digest_size=20)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            data = path.read_bytes()
            head = f"{path.relative_to(folder)} {path.stat().st_mode:o} {len(data)}\0"
            hasher.update(head.encode() + data)
    return hasher.hexdigest()


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
