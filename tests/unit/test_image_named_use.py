"""The counters of a name: they survive concurrent writers and damage, and stay small."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shim.errors import CryoError
from shim.image import named_use
from shim.image.named_use import USE, NamedUse, NameOutcome


def test_counts_add_up(tmp_path: Path) -> None:
    """Each outcome has its own number, and equal reasons are one line with a count."""
    for text in ("no image", "no image", "differs"):
        named_use.count(tmp_path, NameOutcome.MISS, text)
    named_use.count(tmp_path, NameOutcome.HIT)

    found = named_use.read(tmp_path)

    assert (found.hits, found.misses, found.refusals) == (1, 3, 0)
    assert [(one.text, one.count) for one in found.reasons] == [("differs", 1), ("no image", 2)]


def test_many_at_once(tmp_path: Path) -> None:
    """Writers wait for each other; no count is lost, and no temporary file is left."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: named_use.count(tmp_path, NameOutcome.SKIP), range(64)))

    assert named_use.read(tmp_path).skips == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == [USE, ".use.lock"]


def test_reasons_are_bounded(tmp_path: Path) -> None:
    """The newest are kept, each shortened and without control characters."""
    for number in range(40):
        named_use.count(tmp_path, NameOutcome.REFUSAL, f"{number} \x1b" + "x" * 5000)

    reasons = named_use.read(tmp_path).reasons

    assert len(reasons) == 16
    assert reasons[0].text.startswith(r"39 \x1b")
    assert max(len(one.text) for one in reasons) <= 1100


@pytest.mark.parametrize("data", (b"", b"[]", b'{"hits":-1}', b"\xff", b"[" * 100_000))
def test_damaged_counters_begin_again(tmp_path: Path, data: bytes) -> None:
    """A file that cannot be read is no error, and is replaced."""
    (tmp_path / USE).write_bytes(data)
    assert named_use.read(tmp_path) == NamedUse()

    named_use.count(tmp_path, NameOutcome.HIT)

    assert named_use.read(tmp_path).hits == 1


def test_a_name_without_a_folder(tmp_path: Path) -> None:
    """A name that someone mistyped makes no folder; that of a warm start does."""
    named_use.count(tmp_path / "typo", NameOutcome.MISS, "no image")
    assert not (tmp_path / "typo").exists()

    named_use.count(tmp_path / "warm", NameOutcome.MISS, "no image", make=True)
    assert named_use.read(tmp_path / "warm").misses == 1


def test_a_lock_that_is_a_link(tmp_path: Path) -> None:
    """It is not followed."""
    (tmp_path / ".use.lock").symlink_to("/etc/passwd")

    with pytest.raises(CryoError):
        named_use.count(tmp_path, NameOutcome.HIT)
