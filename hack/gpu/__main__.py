"""Make a kit for a GPU machine that has only Python and the driver, and no network.

    python3 -m hack.gpu /tmp/gpu-kit            # here, with network: wheels, runsc, run.sh
    tar -C /tmp -cf gpu-kit.tar gpu-kit         # to copy it to the GPU machine
    ./gpu-kit/run.sh report                     # there, as root: selftest, engines, benchmark
    ./gpu-kit/run.sh --dry-run report           # anywhere: the steps before the first device call

The report is a directory of text files: a description of the machine, and the output of each step.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hack.tools.running import NotHere
from tests.builds import find_program
from tests.containerd.builds import LINES, find_containerd

ROOT = Path(__file__).parents[2]
_LIMIT_S = 600
# The minor versions of glibc in distributions that have a supported Python.
_GLIBCS = range(17, 43)
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_PIN = re.compile(r"^([a-z0-9-]+)==([^\s;\\]+)", re.MULTILINE | re.IGNORECASE)


def pins() -> list[str]:
    """Return the pins of requirements.lock without hashes, since our own wheels have none."""
    return [f"{n}=={v}" for n, v in _PIN.findall((ROOT / "requirements.lock").read_text("utf-8"))]


def pip(*arguments: str) -> None:
    """Run pip, quietly.

    Raises:
        NotHere: it failed; the message has its last line.
    """
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        message = f"pip {arguments[0]}: {lines[-1]}"
        raise NotHere(message)


def foreign(python: str) -> list[str]:
    """Return pip's options to download for another Python, on x86-64; none for this one.

    pip does not expand the name of a platform, so every version of glibc is listed.
    """
    if python == _HERE:
        return []
    names = [f"manylinux_2_{minor}_x86_64" for minor in _GLIBCS] + ["manylinux2014_x86_64"]
    chosen = [f"--platform={name}" for name in names]
    return ["--only-binary=:all:", f"--python-version={python}", *chosen]


def put_wheels(folder: Path, python: str) -> None:
    """Build our wheels, and download their dependencies in the locked versions."""
    folder.mkdir()
    for source in (ROOT, ROOT / "packaging" / "selftest"):
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins()) + "\n", "utf-8")
    ours = [str(wheel) for wheel in sorted(folder.glob("cryoshim*.whl"))]
    arguments = ["--dest", str(folder), "--constraint", str(constraints), *foreign(python)]
    pip("download", *arguments, *ours)


def put_runsc(folder: Path, runsc: Path) -> None:
    """Copy runsc, with the helpers that releases since July 2026 have beside it."""
    folder.mkdir()
    shutil.copy2(runsc, folder / "runsc")
    if (runsc.parent / "gvisor-bin").is_dir():
        shutil.copytree(runsc.parent / "gvisor-bin", folder / "gvisor-bin")


def put_containerd(folder: Path) -> None:
    """Copy the newest containerd from `make tools`, and a busybox for an image.

    If `make tools` has none, the kit has none.
    """
    try:
        found, busybox = find_containerd(LINES[-1]).folder, find_program("busybox")
    except NotHere as error:
        print(f"hack.gpu: the kit has no containerd: {error}", file=sys.stderr)
        return
    folder.mkdir()
    for program in ("containerd", "ctr", "containerd-shim-runc-v2"):
        shutil.copy2(found / program, folder)
    shutil.copy2(busybox, folder)


def make(folder: Path, runsc: Path, python: str) -> None:
    """Create the directory, which must not exist, and fill it."""
    folder.mkdir(parents=True)
    put_runsc(folder / "runsc", runsc)
    put_wheels(folder / "wheels", python)
    put_containerd(folder / "containerd")
    # The wheels do not contain the benchmark and the trials.
    for name in ("hack", "tests"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=_no_caches)
    shutil.copy2(Path(__file__).with_name("run.sh"), folder / "run.sh")


def _no_caches(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python3 -m hack.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="directory to create")
    parser.add_argument("--runsc", type=Path, help="path of runsc [default: from `make tools`]")
    parser.add_argument("--python", default=_HERE, help="Python version of the GPU machine")
    given = parser.parse_args()
    try:
        runsc = given.runsc or find_program("runsc-new")
        make(given.folder.absolute(), runsc.resolve(), given.python)
    except (NotHere, FileExistsError) as error:
        print(f"hack.gpu: {error}", file=sys.stderr)
        return 1
    print(given.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
