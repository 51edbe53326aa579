"""Installs what Cryoshim requires into one directory, for several versions of Python.

Extension modules have the version in their names, and all other files are the same for each, so a
directory can serve several. Debian's own packages do the same.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hack.kubernetes.node.bundle import DISTRIBUTION, closure

# The newest C library that wheels may need is that of Debian 12 and newer, 2.36.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# Lists of files with their digests, and of the tags of a wheel, which depend on the version.
_DIFFERENT = frozenset({"RECORD", "WHEEL"})
# Some wheels have all of their files executable.
_DATA = 0o644
_PIP_S = 600.0


def install(lock: Path, versions: Sequence[str], work: Path, into: Path) -> None:
    """Install the distributions that Cryoshim requires, of the versions in a lock, from wheels.

    Raises:
        ValueError: a file is not the same for all versions of Python.
    """
    chosen = work / "requirements.lock"
    chosen.write_text(required(lock.read_text("utf-8")), "utf-8")
    for version in versions:
        target = work / f"python{version}"
        _pip(
            *("--require-hashes", "--requirement", str(chosen), "--python-version", version),
            *(f"--platform={name}" for name in _PLATFORMS),
            target=target,
        )
        _merge(target, into, _DATA)


def install_wheel(wheel: Path, work: Path, into: Path) -> None:
    """Install a wheel without what it requires."""
    _pip(str(wheel), target=work / "own")
    _merge(work / "own", into)


def required(lock: str) -> str:
    """Return the part of a lock that is needed to run Cryoshim."""
    names = {_normalized(name) for name in closure(DISTRIBUTION) - {DISTRIBUTION}}
    blocks = re.split(r"\n(?=\w)", lock)
    return "\n".join(one for one in blocks if _normalized(one.partition("==")[0]) in names) + "\n"


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(*arguments: str, target: Path) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-compile"]
    argv += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*argv, "--target", str(target), *arguments], check=True, timeout=_PIP_S)


def _merge(source: Path, into: Path, mode: int | None = None) -> None:
    """Copy a tree into another one, without its programs; `mode` is for all files."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_dir() or name.parts[0] == "bin":
            continue
        there = into / name
        if there.exists():
            if path.name not in _DIFFERENT and there.read_bytes() != path.read_bytes():
                message = f"{name} differs between two versions of Python"
                raise ValueError(message)
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, there)
        if mode is not None:
            there.chmod(mode)
