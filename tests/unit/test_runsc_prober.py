"""What a runsc can do is asked once: kept in the process, and in a file for the next one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from shim.errors import InvalidArgument
from shim.runsc import known
from shim.runsc.prober import Prober
from tests.unit.fakes_help import answering
from tests.unit.fakes_runsc import Script


def replaced(tmp_path: Path, runsc: Script) -> None:
    """Put another build, which can do more, in a binary's place."""
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    answering(fresh, new=True).path.replace(runsc.path)


async def test_the_answer_is_kept_until_the_binary_changes(tmp_path: Path) -> None:
    """A second question costs nothing; a binary that was replaced is asked again."""
    runsc = answering(tmp_path, new=False)
    prober = Prober(str(runsc.path))

    first = await prober.capabilities()
    calls = len(runsc.calls)
    assert await prober.capabilities() is first
    assert len(runsc.calls) == calls

    replaced(tmp_path, runsc)
    assert (await prober.capabilities()).builtin_cuda
    assert not first.builtin_cuda


async def test_another_process_need_not_ask(tmp_path: Path) -> None:
    """What one has found out the next one reads, and knows as much."""
    runsc, kept = answering(tmp_path, new=True), tmp_path / "runsc.json"
    found = await Prober(str(runsc.path), kept).capabilities()
    calls = len(runsc.calls)

    assert await Prober(str(runsc.path), kept).capabilities() == found
    assert len(runsc.calls) == calls
    assert kept.stat().st_mode & 0o777 == 0o600


async def test_what_was_kept_of_another_binary_is_not_believed(tmp_path: Path) -> None:
    """A runsc that was replaced meanwhile is asked, and kept in the old one's place."""
    runsc, kept = answering(tmp_path, new=False), tmp_path / "runsc.json"
    await Prober(str(runsc.path), kept).capabilities()

    replaced(tmp_path, runsc)

    assert (await Prober(str(runsc.path), kept).capabilities()).builtin_cuda
    assert b"cuda-checkpoint-path" in kept.read_bytes()


async def test_what_another_version_of_ours_understood_is_not_believed(tmp_path: Path) -> None:
    """After an upgrade the question is asked again: we may read the answer otherwise."""
    runsc, kept = answering(tmp_path, new=True), tmp_path / "runsc.json"
    await Prober(str(runsc.path), kept).capabilities()
    old = msgspec.json.decode(kept.read_bytes())
    kept.write_bytes(msgspec.json.encode({**old, "reader": "0.0.0"}))
    calls = len(runsc.calls)

    await Prober(str(runsc.path), kept).capabilities()

    assert len(runsc.calls) > calls


@pytest.mark.parametrize("data", (b"", b"{", b"[]", b"\xff", b"[" * 5000, b"x" * 100_000))
async def test_a_broken_file_is_as_good_as_none(tmp_path: Path, data: bytes) -> None:
    """Whatever the file holds, runsc is asked and the file is made again."""
    runsc, kept = answering(tmp_path, new=True), tmp_path / "runsc.json"
    kept.write_bytes(data)

    found = await Prober(str(runsc.path), kept).capabilities()

    assert found.builtin_cuda
    assert known.recall(kept, found.binary, found.identity, {}) == found


async def test_a_disk_without_space_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is used all the same, and the log says that it is not saved."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    runsc, kept = answering(tmp_path, new=True), tmp_path / "runsc.json"
    monkeypatch.setattr(os, "fsync", full)

    assert (await Prober(str(runsc.path), kept).capabilities()).builtin_cuda
    assert "cannot save" in caplog.text
    assert not kept.exists()


async def test_flags_that_runsc_refuses_are_reported_in_its_words(tmp_path: Path) -> None:
    """The first question tries the configured flags; the line is runsc's own, once."""
    runsc, kept = answering(tmp_path, new=True), tmp_path / "runsc.json"
    said = "flag provided but not defined: -x\nUsage: runsc <flags>\n\t-y\n"
    runsc.prints("list", err=said, status=2)

    with pytest.raises(InvalidArgument, match=r"\[runsc.flags\]: flag .* not defined: -x$"):
        await Prober(str(runsc.path), kept, {"x": "1"}).capabilities()

    assert [word for word in runsc.calls[-1] if "root" not in word] == ["--x=1", "list"]
    assert not kept.exists()


async def test_flags_are_tried_once_for_each_set_of_them(tmp_path: Path) -> None:
    """Another process with the same flags asks nothing; one with others tries them."""
    runsc, kept = answering(tmp_path, new=True), tmp_path / "runsc.json"
    await Prober(str(runsc.path), kept, {"network": "none"}).capabilities()
    calls = len(runsc.calls)

    await Prober(str(runsc.path), kept, {"network": "none"}).capabilities()
    assert len(runsc.calls) == calls

    await Prober(str(runsc.path), kept, {"network": "host"}).capabilities()
    assert "--network=host" in runsc.calls[-1]
