"""Writes the source tree that dpkg-buildpackage builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

from hack import man
from hack.build_hook import build
from hack.deb import licenses, tree, wheels
from shim import __version__
from shim.entry.cli import completing
from shim.entry.cli.app import cryo

_PACKAGING = tree.ROOT / "packaging/debian"
# Of the package, by the variables that Debian's own tools read.
_MAINTAINER = os.environ.get("DEBFULLNAME", "Cryoshim maintainers")
_ADDRESS = os.environ.get("DEBEMAIL", "cryoshim@packages.invalid")
_CHANGELOG = """cryoshim ({version}) unstable; urgency=medium

  * Release {version}: see upstream-changelog.md.

 -- {maintainer}  {date}
"""
_WHEEL_S = 600.0
_COMPLETIONS = {
    "bash": "bash-completion/completions/cryo",
    "zsh": "zsh/vendor-completions/_cryo",
    "fish": "fish/vendor_completions.d/cryo.fish",
}


def write(source: Path) -> None:
    """Write the tree into a directory that does not exist.

    Raises:
        OSError: the C programs cannot be built.
    """
    if reason := build(tree.ROOT):
        message = f"the C programs were not built: {reason}"
        raise OSError(message)
    source.mkdir(parents=True)
    files = source / "tree"
    tree.write(files)
    packages = files / tree.PACKAGES
    work = source.with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    wheels.install(tree.ROOT / "requirements.lock", tree.VERSIONS, work, packages)
    wheels.install_wheel(_wheel(work), work, packages)
    _write_debian(source / "debian", packages)
    _write_completions(files / "usr/share")
    man.main([str(source / "man")])
    for page in _PACKAGING.glob("*.8"):
        shutil.copy2(page, source / "man")
    shutil.rmtree(work)


def _write_completions(share: Path) -> None:
    """Write the scripts where each shell looks for those of packages."""
    for shell, place in _COMPLETIONS.items():
        path = share / place
        path.parent.mkdir(parents=True)
        path.write_text(completing.script(cryo, shell), "utf-8")


def _wheel(work: Path) -> Path:
    """Build the wheel of this checkout."""
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(work / "wheel")]
    subprocess.run(argv, cwd=tree.ROOT, check=True, timeout=_WHEEL_S, capture_output=True)
    (wheel,) = (work / "wheel").glob("*.whl")
    return wheel


def _write_debian(folder: Path, packages: Path) -> None:
    shutil.copytree(_PACKAGING, folder)
    maintainer = f"{_MAINTAINER} <{_ADDRESS}>"
    control = folder / "control"
    text = control.read_text("utf-8").replace("@MAINTAINER@", maintainer)
    control.write_text(text, "utf-8")
    with (folder / "copyright").open("a", encoding="utf-8") as file:
        file.write(licenses.stanzas(packages))
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    changelog = _CHANGELOG.format(
        version=version(), maintainer=maintainer, date=formatdate(seconds, localtime=False)
    )
    (folder / "changelog").write_text(changelog, "utf-8")
    shutil.copy2(tree.ROOT / "CHANGELOG.md", folder / "upstream-changelog.md")


def version() -> str:
    """Return Debian's form of the version: one before a release sorts before it."""
    head, dot, rest = __version__.partition(".dev")
    return f"{head}~dev{rest}" if dot else head
