"""What is said of huge pages, by the settings of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import CryoError
from shim.host import hugepages

SHMEM = "always within_size advise never deny force"
DEFRAG = "always defer defer+madvise madvise never"


def settings(folder: Path, shmem: str, defrag: str) -> Path:
    """Write both settings as the kernel shows them."""
    for name, words, chosen in (("shmem_enabled", SHMEM, shmem), ("defrag", DEFRAG, defrag)):
        shown = " ".join(f"[{word}]" if word == chosen else word for word in words.split())
        (folder / name).write_text(shown + "\n", "utf-8")
    return folder


@pytest.mark.parametrize(
    ("shmem", "defrag", "used"),
    (
        ("advise", "never", True),
        ("advise", "defer", True),
        ("advise", "madvise", False),
        ("advise", "defer+madvise", False),
        ("always", "madvise", True),
        ("force", "madvise", True),
        ("never", "always", False),
        ("deny", "always", False),
    ),
)
def test_whether_they_are_used(tmp_path: Path, shmem: str, defrag: str, *, used: bool) -> None:
    """Both settings count, as they do for runsc, and both are named."""
    reported = hugepages.described(settings(tmp_path, shmem, defrag))

    assert reported.startswith("on (" if used else "off, ")
    assert f"(shmem_enabled {shmem}, defrag {defrag})" in reported


@pytest.mark.parametrize(
    ("shmem", "defrag", "changed"),
    (
        ("never", "madvise", "shmem_enabled from never to advise, defrag from madvise to defer"),
        ("never", "never", "shmem_enabled from never to advise"),
        ("advise", "madvise", "defrag from madvise to defer"),
        ("advise", "never", ""),
        ("within_size", "madvise", ""),
    ),
)
def test_what_is_adjusted(tmp_path: Path, shmem: str, defrag: str, changed: str) -> None:
    """Only what is missing, and all of it is named; the kernel reads the bare word."""
    folder = settings(tmp_path, shmem, defrag)
    before = {path.name: path.read_text() for path in folder.iterdir()}

    said = hugepages.adjust(folder)

    assert said == (f"{folder}: set {changed}" if changed else "")
    for name, wanted in (("shmem_enabled", "advise"), ("defrag", "defer")):
        text = (folder / name).read_text()
        assert text.startswith(wanted) if f"{name} from" in changed else text == before[name]


def test_settings_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file, as where there are none."""
    with pytest.raises(CryoError, match="shmem_enabled"):
        hugepages.adjust(tmp_path)


def test_a_kernel_without_them(tmp_path: Path) -> None:
    """What is not there is off, and no error."""
    assert "off" in hugepages.described(tmp_path)
    assert "shmem_enabled unknown" in hugepages.described(tmp_path)
