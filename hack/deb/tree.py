"""Writes what the package installs: a virtual environment, its programs and the unit."""

from __future__ import annotations

import shutil
from pathlib import Path

from hack.build_hook import LAUNCHER, SHIM

ROOT = Path(__file__).parents[2]
HOME = Path("usr/lib/cryoshim")
# Debian 12 and 13.
VERSIONS = ("3.11", "3.13")
PACKAGES = HOME / "lib/python3/site-packages"
UNIT = ROOT / "packaging/systemd/cryo.service"

_PROGRAMS = {"cryo": "shim.entry.cli", f"{SHIM}-python": "shim.entry.shimbin.main"}
_SCRIPT = """#!/{home}/bin/python3
import sys

from {module} import main

sys.exit(main())
"""
_VENV = """home = /usr/bin
include-system-site-packages = false
"""


def write(tree: Path) -> None:
    """Write all but the packages in Python."""
    home = tree / HOME
    (home / "bin").mkdir(parents=True)
    (tree / PACKAGES).mkdir(parents=True)
    (home / "pyvenv.cfg").write_text(_VENV, "utf-8")
    (home / "bin/python3").symlink_to("../../../bin/python3")
    for version in VERSIONS:
        (home / f"lib/python{version}").symlink_to("python3")
    for name, module in _PROGRAMS.items():
        _write_program(home / "bin" / name, _SCRIPT.format(home=HOME, module=module))
    shutil.copy2(ROOT / LAUNCHER, home / "bin" / SHIM)
    _write_links(tree)
    _write_unit(tree)


def _write_links(tree: Path) -> None:
    folder = tree / "usr/bin"
    folder.mkdir()
    for name in ("cryo", SHIM):
        (folder / name).symlink_to(f"../{HOME.relative_to('usr')}/bin/{name}")


def _write_unit(tree: Path) -> None:
    """Write the unit, which runs the program where this package has it."""
    text = UNIT.read_text("utf-8")
    given, ours = "ExecStart=/usr/local/bin/cryo ", "ExecStart=/usr/bin/cryo "
    if given not in text:
        message = f"{UNIT} has no {given}"
        raise ValueError(message)
    folder = tree / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    (folder / UNIT.name).write_text(text.replace(given, ours), "utf-8")


def _write_program(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    path.chmod(0o755)
