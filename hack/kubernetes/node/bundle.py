"""Writes a bundle: the shim with its dependencies, its Python and the C library that this needs.

A node may have no Python, or another C library than the machine that made the bundle. So the
bundle contains the interpreter that runs this module, the installed distribution `cryoshim` with
what it requires, every shared library that these load, and the dynamic loader. With --runsc it
has that one too, for the sandboxes of this version alone.

    python3 -m hack.kubernetes.node.bundle DIRECTORY [--runsc PATH]
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import shim
from hack.kubernetes.node import libraries, runsc
from hack.kubernetes.node.libraries import LIBRARIES, LOADER
from shim.errors import CryoError

__all__ = ("LIBRARIES", "LOADER", "launch", "write")

DISTRIBUTION = "cryoshim"
VERSION = "VERSION"
INTERPRETER = "bin/python3.real"
# The launcher in C, where it was built and needs no library, which a node may lack.
NATIVE = "shim/entry/shimbin/bin/containerd-shim-cryo-v1"
# Parts of the standard library that no server needs, and that are large or need more libraries.
_LEFT_OUT = (
    *("config-*", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test"),
    *("tkinter", "turtledemo", "venv", "_tkinter.*", "_dbm.*", "_gdbm.*", "_curses*", "readline.*"),
    *("_sqlite3.*", "sqlite3", "nis.*", "_test*", "xxlimited*"),
)
# The sidecar's.
_UNIT = Path(__file__).parents[3] / "packaging/systemd/cryo.service"
# As in the wheel: these are of another distribution.
_NOT_INSTALLED = ("selftest", "simgpu", "standin")


def write(folder: Path, with_runsc: Path | None = None) -> str:
    """Write the bundle into a directory that must not exist; return its version.

    Raises:
        CryoError: the program that was given is no runsc that fits any node.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    library = folder / "lib" / stdlib.name
    shutil.copytree(stdlib, library, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    packages = library / "site-packages"
    packages.mkdir()
    for name in sorted(closure(DISTRIBUTION) - {DISTRIBUTION}):
        _copy_distribution(name, packages)
    left_out = shutil.ignore_patterns(*_NOT_INSTALLED)
    shutil.copytree(Path(shim.__file__).parent, packages / "shim", ignore=left_out)
    runsc.remove(folder)
    if (packages / NATIVE).exists() and any(libraries.needed(packages / NATIVE)):
        (packages / NATIVE).unlink()
    _copy(Path(sys.executable).resolve(), folder / INTERPRETER)
    libraries.copy(folder)
    if with_runsc is not None:
        runsc.add(folder, with_runsc)
    shutil.copyfile(_UNIT, folder / _UNIT.name)
    compileall.compile_dir(library, quiet=2)
    version = f"{shim.__version__}-{digest(folder)[:12]}"
    (folder / VERSION).write_text(f"{version}\n", "utf-8")
    return version


def launch(place: Path) -> list[str]:
    """Return the command line that starts the interpreter of a bundle at this place."""
    folder = place / LIBRARIES
    loader = [str(folder / LOADER), "--argv0", f"{place}/bin/python3"]
    return [*loader, "--library-path", str(folder), str(place / INTERPRETER)]


def closure(name: str) -> set[str]:
    """Return a distribution and all that it requires, without its extras."""
    found = {name}
    for line in metadata.requires(name) or []:
        requirement, _, marker = line.partition(";")
        matched = re.match(r"[A-Za-z0-9._-]+", requirement)
        if matched and "extra" not in marker and "python_version" not in marker:
            found |= closure(matched[0])
    return found


def described(folder: Path) -> str:
    """Return the version of a bundle, and that of its runsc if it has one."""
    version = (folder / VERSION).read_text("utf-8").strip()
    return ", ".join(filter(None, (f"version {version}", runsc.described(folder))))


def _copy_distribution(name: str, packages: Path) -> None:
    for file in metadata.files(name) or []:
        if ".." not in file.parts and "tests" not in file.parts:
            _copy(Path(str(file.locate())), packages / file)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def digest(folder: Path) -> str:
    """Return a digest of the names, the modes and the contents of all files, but compiled ones."""
    hasher = hashlib.blake2b(digest_size=20)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            data = path.read_bytes()
            head = f"{path.relative_to(folder)} {path.stat().st_mode:o} {len(data)}\0"
            hasher.update(head.encode() + data)
    return hasher.hexdigest()


@contextmanager
def reported() -> Iterator[None]:
    """Exit with the message and the remedy of an error."""
    try:
        yield
    except CryoError as error:
        sys.exit(f"{error}; {error.remedy}")


def main() -> None:
    """Write a bundle, and print what it is."""
    parser = argparse.ArgumentParser(prog="hack.kubernetes.node.bundle")
    parser.add_argument("folder", type=Path, help="the directory to write")
    parser.add_argument("--runsc", type=Path, help="the runsc to include")
    asked = parser.parse_args()
    with reported():
        write(asked.folder, asked.runsc)
        print(described(asked.folder))


if __name__ == "__main__":
    main()
