"""Builds the Debian package from this checkout.

    python3 -m hack.deb FOLDER

Needs dpkg-dev, debhelper and a C compiler. DEBFULLNAME and DEBEMAIL are the maintainer of the
package, SOURCE_DATE_EPOCH the time of its files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from hack.deb import source

_TOOLS = {"dpkg-buildpackage": "dpkg-dev", "dh": "debhelper"}
_BUILD_S = 900.0


def main(folder: Path) -> int:
    """Build the package, print its path and return the exit code."""
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        print(
            f"make: the Debian package needs: apt-get install {' '.join(missing)}", file=sys.stderr
        )
        return 1
    made = build(folder)
    print(made)
    return 0


def build(folder: Path) -> Path:
    """Build the package in a directory, and return its path there.

    Raises:
        subprocess.CalledProcessError: dpkg-buildpackage failed.
    """
    tree = folder / f"cryoshim-{source.version()}"
    shutil.rmtree(tree, ignore_errors=True)
    source.write(tree)
    argv = ["dpkg-buildpackage", "--build=binary", "--no-sign"]
    log = folder / "dpkg-buildpackage.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            argv, cwd=tree, stdout=file, stderr=file, check=False, timeout=_BUILD_S
        )
    if done.returncode:
        print(log.read_text("utf-8"), file=sys.stderr)
        done.check_returncode()
    shutil.rmtree(tree)
    return folder / f"cryoshim_{source.version()}_amd64.deb"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
