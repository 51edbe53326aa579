"""A tmpfs that is mounted nowhere, on the real kernel."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shim.errors import CryoError
from shim.host import tmpfs
from shim.host.tmpfs import Tmpfs, huge_pages

MIB = 1 << 20
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@needs_root
def test_files_by_its_path(tmp_path: Path) -> None:
    """Other processes write to it by its path, and its size bounds what fits."""
    made = Tmpfs(8 * MIB)
    try:
        argv = ["dd", "if=/dev/zero", f"of={made.path}/file", "bs=1M", "count=4"]
        assert subprocess.run(argv, check=False, capture_output=True).returncode == 0
        assert (made.path / "file").stat().st_size == 4 * MIB
        assert (made.path / "file").stat().st_dev == made.device
        assert made.free_bytes <= 4 * MIB
        argv[2], argv[4] = f"of={made.path}/more", "count=16"
        failed = subprocess.run(argv, check=False, capture_output=True)
        assert b"No space left" in failed.stderr
        assert str(made.path) not in Path("/proc/self/mountinfo").read_text("utf-8")
    finally:
        made.close()
    made.close()
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_memory_of_an_open_file_is_freed() -> None:
    """Emptying frees the memory of a file that a process has open."""
    made = Tmpfs(8 * MIB)
    with (made.path / "file").open("wb") as file:
        file.write(b"x" * (6 * MIB))
        file.flush()
        made.empty()
        assert made.free_bytes >= 7 * MIB
        assert os.fstat(file.fileno()).st_size == 0
    made.close()


@needs_root
def test_refused_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel refuses is a typed error, and no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the descriptors of this moment
    monkeypatch.setattr(tmpfs, "huge_pages", lambda: "perhaps")
    with pytest.raises(CryoError, match="make a tmpfs"):
        Tmpfs(MIB)

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    ("text", "kind"),
    (("9\n", "never"), ("4294967295\n", "always"), ("-1\n", "always"), ("", "always")),
)
def test_huge_pages(tmp_path: Path, text: str, kind: str) -> None:
    """A machine that reports its free blocks gives back the large ones: they are not taken."""
    file = tmp_path / "order"
    file.write_text(text, "ascii")

    assert huge_pages(file) == kind
    assert huge_pages(tmp_path / "missing") == "always"
