"""Make a folder that a bare GPU machine without network needs nothing besides but Python.

    python3 -m hack.gpu /tmp/gpu-kit            # here, with network: wheels, runsc, run.sh
    tar -C /tmp -cf gpu-kit.tar gpu-kit         # take it there
    ./gpu-kit/run.sh report                     # there, as root: selftest, engines, benchmark
    ./gpu-kit/run.sh --dry-run report           # anywhere: the same up to the first device call

The report is a folder of plain files: what the machine is, and what each step said.
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
# Those of the distributions that have a Python which we run on.
_GLIBCS = range(17, 43)
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_PIN = re.compile(r"^([a-z0-9-]+)==([^\s;\\]+)", re.MULTILINE | re.IGNORECASE)


def pins() -> list[str]:
    """Return what requirements.lock pins, without its hashes: it locks source and wheel alike."""
    return [f"{n}=={v}" for n, v in _PIN.findall((ROOT / "requirements.lock").read_text("utf-8"))]


def pip(*arguments: str) -> None:
    """Run pip, quietly.

    Raises:
        NotHere: it failed; its last line says why.
    """
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        message = f"pip {arguments[0]}: {lines[-1]}"
        raise NotHere(message)


def foreign(python: str) -> list[str]:
    """Return the options with which pip fetches for another Python, on x86-64; none for this one.

    pip takes a platform's name as it is, so all that its glibc may be are named.
    """
    if python == _HERE:
        return []
    names = [f"manylinux_2_{minor}_x86_64" for minor in _GLIBCS] + ["manylinux2014_x86_64"]
    chosen = [f"--platform={name}" for name in names]
    return ["--only-binary=:all:", f"--python-version={python}", *chosen]


def put_wheels(folder: Path, python: str) -> None:
    """Build our wheels, and fetch those that they need, at the versions of the lock."""
    folder.mkdir()
    for source in (ROOT, ROOT / "packaging" / "selftest"):
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins()) + "\n", "utf-8")
    ours = [str(wheel) for wheel in sorted(folder.glob("cryoshim*.whl"))]
    arguments = ["--dest", str(folder), "--constraint", str(constraints), *foreign(python)]
    pip("download", *arguments, *ours)


def put_runsc(folder: Path, runsc: Path) -> None:
    """Copy runsc, with the helpers that releases since July 2026 keep beside it."""
    folder.mkdir()
    shutil.copy2(runsc, folder / "runsc")
    if (runsc.parent / "gvisor-bin").is_dir():
        shutil.copytree(runsc.parent / "gvisor-bin", folder / "gvisor-bin")


def put_containerd(folder: Path) -> None:
    """Copy the newest containerd that `make tools` found, and a busybox for an image.

    Where it found none the kit goes without.
    """
    try:
        found, busybox = find_containerd(LINES[-1]).folder, find_program("busybox")
    except NotHere as error:
        print(f"hack.gpu: going on without containerd: {error}", file=sys.stderr)
        return
    folder.mkdir()
    for program in ("containerd", "ctr", "containerd-shim-runc-v2"):
        shutil.copy2(found / program, folder)
    shutil.copy2(busybox, folder)


def make(folder: Path, runsc: Path, python: str) -> None:
    """Make the folder, which must not be there yet."""
    folder.mkdir(parents=True)
    put_runsc(folder / "runsc", runsc)
    put_wheels(folder / "wheels", python)
    put_containerd(folder / "containerd")
    # The benchmark and the trials are not in the wheel.
    for name in ("hack", "tests"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=_no_caches)
    shutil.copy2(Path(__file__).with_name("run.sh"), folder / "run.sh")


def _no_caches(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def main() -> int:
    """Be the command."""
    parser = argparse.ArgumentParser(
        prog="python3 -m hack.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="where to make it")
    parser.add_argument("--runsc", type=Path, help="the newest that `make tools` found")
    parser.add_argument("--python", default=_HERE, help="the version that the GPU machine has")
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
