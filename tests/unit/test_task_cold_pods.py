"""The notes of pods whose restore has failed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shim.task import cold_pods
from shim.task.cold_pods import KEPT_S, ColdPods, FailedRestore


@pytest.fixture
def notes(tmp_path: Path) -> ColdPods:
    """Give a folder without notes."""
    return ColdPods(tmp_path / "cold")


def test_a_note_is_found_by_its_pod_alone(notes: ColdPods) -> None:
    """The last reason counts."""
    assert notes.find("a-1") is None
    notes.add("a-1", FailedRestore(reason="first"))
    notes.add("a-1", FailedRestore(reason="then", image="/i"))

    assert notes.find("a-1") == FailedRestore(reason="then", image="/i")
    assert notes.find("a-2") is None


@pytest.mark.parametrize("uid", ("", ".", "..", "../x", "a/b", "-a", "a\n", "a" * 64, "\0"))
def test_an_unusual_uid_is_no_file_name(notes: ColdPods, tmp_path: Path, uid: str) -> None:
    """It comes from an annotation."""
    notes.add(uid, FailedRestore(reason="x"))

    assert notes.find(uid) is None
    assert list(tmp_path.iterdir()) == []


def test_a_note_is_short(notes: ColdPods) -> None:
    """The reason may contain output of a container."""
    notes.add("a", FailedRestore(reason="é\n" * 50000))

    found = notes.find("a")
    assert found is not None
    assert len(found.reason) < 4096


def test_a_damaged_note_does_not_count(notes: ColdPods, tmp_path: Path) -> None:
    """The pod is restored again."""
    notes.add("a", FailedRestore(reason="x"))
    (tmp_path / "cold/a").write_bytes(b"\xff{")

    assert notes.find("a") is None


def test_an_old_note_does_not_count_and_is_removed(notes: ColdPods, tmp_path: Path) -> None:
    """A pod that lives for long is restored again."""
    notes.add("old", FailedRestore(reason="x"))
    past = time.time() - KEPT_S - 60
    os.utime(tmp_path / "cold/old", (past, past))
    assert notes.find("old") is None

    notes.add("new", FailedRestore(reason="x"))

    assert [path.name for path in (tmp_path / "cold").iterdir()] == ["new"]


def test_there_are_not_many(
    notes: ColdPods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest ones go first."""
    monkeypatch.setattr(cold_pods, "MAX_NOTES", 3)
    for at in range(5):
        notes.add(f"a{at}", FailedRestore(reason="x"))
        when = time.time() - 100 + at
        os.utime(tmp_path / f"cold/a{at}", (when, when))

    assert {path.name for path in (tmp_path / "cold").iterdir()} == {"a2", "a3", "a4"}
