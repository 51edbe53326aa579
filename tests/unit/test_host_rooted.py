"""Opening a path as if another folder were the root."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shim.errors import InvalidArgument
from shim.host import rooted
from shim.host.rooted import open_in_root, root_folder
from shim.oci.rootfs import find_program

NAMES = ("a", "b", "c", "usr", "bin", "etc")
ODD = ("../../../../../../etc/passwd", "/proc/self/root/etc", "/", "//", "..", ".", "//bin//x/")
# Prints 1 for each name on stdin that is an executable file, 0 for any other.
JUDGE = """
import os, sys
names = sys.stdin.read().splitlines()
os.chroot(sys.argv[1]); os.chdir("/")
print("".join(str(int(os.path.isfile(n) and os.access(n, os.X_OK))) for n in names))
"""


@pytest.fixture(params=("openat2", "walk"))
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use the kernel's openat2, and what stands in for it where the kernel has none."""

    def absent(_root: int, path: str) -> int:
        raise OSError(38, "Function not implemented", path)

    if request.param == "walk":
        monkeypatch.setattr(rooted, "_openat2", absent)
    return str(request.param)


def tree(root: Path, chance: random.Random) -> None:
    """Make a random tree of folders, programs and links, many of which want to lead out."""
    for _ in range(25):
        path = root.joinpath(*chance.choices(NAMES, k=chance.randint(1, 4)))
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = chance.random()
            if kind < 0.5:
                words = chance.choices((*NAMES, "..", "."), k=chance.randint(1, 5))
                plain = "/" * chance.randint(0, 2) + "/".join(words)
                path.symlink_to(chance.choice((plain, *ODD)))
            elif kind < 0.8:
                path.mkdir(exist_ok=True)
            else:
                path.touch(mode=0o755)


def candidates(chance: random.Random) -> list[str]:
    """Make names to look for."""
    words = (*NAMES, "..", ".")
    return ["/" + "/".join(chance.choices(words, k=chance.randint(1, 6))) for _ in range(60)]


@pytest.mark.usefixtures("how")
@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_lookups_find_what_a_chroot_finds(tmp_path: Path) -> None:
    """Whatever the links say, a name is found exactly where a process in the rootfs finds it."""
    chance = random.Random(3)
    for _ in range(12):
        root = tmp_path / "rootfs"
        root.mkdir()
        tree(root, chance)
        names = candidates(chance)

        ours = "".join(str(int(find_program(root, [name]) == name)) for name in names)

        argv = [sys.executable, "-ISc", JUDGE, str(root)]
        found = subprocess.run(
            argv, input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True, timeout=60
        )
        assert ours == found.stdout.strip()
        shutil.rmtree(root)


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("slashes", ("/", "//", "///"))
def test_an_absolute_link_stays_in_the_rootfs(tmp_path: Path, slashes: str) -> None:
    """A link to //x is a link to /x of the rootfs, not of the host."""
    secret = tmp_path / "secret"
    secret.touch(mode=0o755)
    (tmp_path / "rootfs" / "bin").mkdir(parents=True)
    link = tmp_path / "rootfs" / "bin" / "tool"
    link.symlink_to(slashes + str(secret).lstrip("/"))

    assert not find_program(tmp_path / "rootfs", ["/bin/tool"])

    inside = tmp_path / "rootfs" / str(secret).lstrip("/")
    inside.parent.mkdir(parents=True)
    inside.touch(mode=0o755)
    assert find_program(tmp_path / "rootfs", ["/bin/tool"]) == "/bin/tool"


@pytest.mark.usefixtures("how")
def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """A link that leads to itself is found nowhere, and no descriptor stays open."""
    (tmp_path / "loop").symlink_to("loop")
    gc.collect()  # what an earlier test has left open
    before = len(list(Path("/proc/self/fd").iterdir()))

    with root_folder(tmp_path) as root, pytest.raises(OSError, match="symbolic links"):
        open_in_root(root, "/loop")

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_nul_is_a_typed_error(tmp_path: Path) -> None:
    """A name with a NUL, as PATH in an image's environment may have, is refused by name."""
    with pytest.raises(InvalidArgument, match="NUL"):
        find_program(tmp_path, ["/a\0b/tool"])


def test_a_rootfs_that_is_not_there_has_no_program(tmp_path: Path) -> None:
    """No folder, nothing found."""
    assert not find_program(tmp_path / "none", ["/bin/sh"])
