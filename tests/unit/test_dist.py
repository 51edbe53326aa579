"""What is published: the source distribution builds the same wheel, which works in a new venv."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.build_hook import LAUNCHER, SHIM, TAG
from shim import __version__

ROOT = Path(__file__).parents[2]
_BUILD_S = 300.0
_RUN_S = 60.0
_ELF = b"\x7fELF"
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
    pytest.mark.timeout(600),
]


def run(*argv: str | Path, cwd: Path = ROOT) -> str:
    """Run a program, which must succeed; return its output."""
    done = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, target: str, into: Path) -> Path:
    """Build one distribution from a directory; return its file."""
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", into, cwd=source)
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, "sdist", folder / "made")) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"cryoshim-{__version__}"


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel that the source distribution builds."""
    return build(unpacked, "wheel", tmp_path_factory.mktemp("from-sdist") / "made")


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def native(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the programs in a wheel that are compiled."""
    yield from ((name, data) for name, data in contents(wheel).items() if data[:4] == _ELF)


def test_the_source_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """The wheel of the checkout and that of the source distribution have the same files."""
    ours = build(ROOT, "wheel", tmp_path / "made")

    assert ours.name == wheel.name == f"cryoshim-{__version__}-{TAG}.whl"
    assert contents(ours) == contents(wheel)


def test_it_has_what_its_make_targets_need(unpacked: Path) -> None:
    """The lock, which the venv is made from, is there."""
    assert (unpacked / "requirements.lock").exists()


def test_its_programs_fit_the_tag(wheel: Path) -> None:
    """The launcher and cryo-cuda are there, and need no newer C library than the tag says."""
    newest = tuple(int(part) for part in re.findall(r"\d+", TAG.partition("manylinux")[2])[:2])
    found = dict(native(wheel))

    assert {Path(name).name for name in found} == {SHIM, "cryo-cuda"}
    for data in found.values():
        assert max((int(a), int(b)) for a, b in [*_GLIBC.findall(data), (2, 0)]) <= newest


def test_it_works_in_a_new_venv(wheel: Path, tmp_path: Path) -> None:
    """The command line, the launcher in C and cryo-cuda run where only the wheel is installed."""
    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin/python3"
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    argv = ("-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index")
    run(sys.executable, *argv, wheel)
    # What it requires is that of this Python; a path in a .pth comes after the venv's own.
    (Path(where) / "required.pth").write_text(sysconfig.get_path("purelib"), "utf-8")

    assert run(home / "bin/cryo", "--version", cwd=tmp_path).split()[-1] == __version__
    assert (home / "bin" / SHIM).read_bytes() == (ROOT / LAUNCHER).read_bytes()
    assert __version__ in run(home / "bin" / SHIM, "-v", cwd=tmp_path)
    helper = run(python, "-c", "from shim.cuda import native; print(native.path())", cwd=tmp_path)
    assert helper.startswith(where)
    assert "--action" in run(helper.strip(), "--help", cwd=tmp_path)
