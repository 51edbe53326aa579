"""The runsc of a bundle, which the sandboxes of this version use, and no others.

It lies inside the package, where `shim.runsc.program` looks for it. So pods keep the runsc with
which they were created, whatever is installed later.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from hack.kubernetes.node.libraries import needed
from shim.errors import InvalidArgument
from shim.runsc.program import NAME

__all__ = ("NAME", "add", "described", "programs", "remove")

# A line with its version, in the bundle.
_FILE = "RUNSC"
_FOLDER = "lib/python3*/site-packages/shim/runsc"
# The helper programs that releases have beside runsc.
_HELPERS = "gvisor-bin"
_VERSION = "runsc version "
_ASK_S = 20.0
_REMEDY = "name the runsc of a release, which is linked statically"


def add(bundle: Path, program: Path) -> None:
    """Copy a runsc into a bundle, with the helper programs that are beside it.

    Raises:
        InvalidArgument: it is no runsc, or needs libraries, which a node may lack.
    """
    program = program.resolve()
    version = _version(program)
    if libraries := [name for name, _ in needed(program)]:
        message = f"{program} needs {', '.join(libraries)}, which a node may lack"
        raise InvalidArgument(message, remedy=_REMEDY)
    (package,) = bundle.glob(_FOLDER)
    (package / "bin").mkdir()
    target = package / "bin" / NAME
    shutil.copyfile(program, target)
    target.chmod(0o755)
    if (helpers := program.parent / _HELPERS).is_dir():
        shutil.copytree(helpers, target.parent / _HELPERS)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    (bundle / _FILE).write_text(f"runsc {version} (sha256 {digest[:12]})\n", "utf-8")


def remove(bundle: Path) -> None:
    """Remove what lies in the checkout: a bundle has the runsc that was asked for, or none."""
    for folder in bundle.glob(f"{_FOLDER}/bin"):
        shutil.rmtree(folder)


def described(bundle: Path) -> str:
    """Return which runsc a bundle or an installed version has; empty if it has none."""
    try:
        return (bundle / _FILE).read_text("utf-8").strip()
    except FileNotFoundError:
        return ""


def programs(bundle: Path) -> list[Path]:
    """Return the programs that sandboxes of a bundle or an installed version run from."""
    found = (path for folder in bundle.glob(f"{_FOLDER}/bin") for path in folder.rglob("*"))
    return sorted(path for path in found if path.is_file() and os.access(path, os.X_OK))


def _version(program: Path) -> str:
    """Return what it prints as its version.

    Raises:
        InvalidArgument: it prints none.
    """
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{program} cannot be run: {error}"
        raise InvalidArgument(message, remedy=_REMEDY) from error
    first = done.stdout.partition("\n")[0]
    if done.returncode or not first.startswith(_VERSION):
        message = f"{program} is no runsc: `--version` prints no version of runsc"
        raise InvalidArgument(message, remedy=_REMEDY)
    return first.removeprefix(_VERSION).strip()
