"""The journal: what was begun is there for the next owner, and damage is reported."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shim.errors import CryoError, InvalidArgument
from shim.model import CudaProcess, EngineName, Phase
from shim.transaction import journal as journals
from shim.transaction.journal import Entry, Journal, Operation


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Give one with a checkpoint open."""
    made = Journal(tmp_path)
    made.open(Operation.CHECKPOINT, "/images/a")
    return made


def test_what_is_written_is_read(journal: Journal, tmp_path: Path) -> None:
    """Every field comes back in the next process."""
    journal.note(
        phase=Phase.SAVE,
        staging="/images/.x",
        engine=EngineName.PHASED,
        save_pid=77,
        save_start=88,
        exec_processes=(4, 5),
    )
    journal.processes([CudaProcess(pid=7, name="train"), CudaProcess(pid=8, name="é")])
    journal.process(7, "", "locking")

    found = Journal(tmp_path).load()

    assert found == journal.entry
    assert found is not None
    assert found.processes["7"] == journals.ProcessEntry(name="train", state="locking")
    assert found.cuda_processes() == [
        CudaProcess(pid=7, name="train"),
        CudaProcess(pid=8, name="é"),
    ]
    assert (found.phase, found.save_pid, found.exec_processes) == (Phase.SAVE, 77, (4, 5))


def test_a_file_that_cannot_be_removed(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is typed, and names the file."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "unlink", fail)

    with pytest.raises(CryoError, match=rf"remove .*{journals.NAME}: Input/output error"):
        journal.close()


def test_whether_the_task_was_to_end_is_kept(tmp_path: Path) -> None:
    """A checkpoint with --exit that died after its commit must stop the task, not wake it."""
    Journal(tmp_path).open(Operation.CHECKPOINT, "/i", was_paused=True, exit=True)

    found = Journal(tmp_path).load()

    assert found is not None
    assert (found.exit, found.was_paused) == (True, True)


def test_a_closed_journal_is_gone(journal: Journal, tmp_path: Path) -> None:
    """Nothing is left to undo; closing twice is fine."""
    journal.close()
    journal.close()

    assert list(tmp_path.iterdir()) == []
    assert Journal(tmp_path).load() is None
    with pytest.raises(InvalidArgument, match="no operation is open"):
        _ = journal.entry


def test_opening_anew_forgets_the_old(journal: Journal, tmp_path: Path) -> None:
    """Nothing of an earlier operation is mixed into the next one."""
    journal.processes([CudaProcess(pid=7)])
    journal.open(Operation.RESTORE, "/images/b")

    found = Journal(tmp_path).load()

    assert found is not None
    assert (found.operation, found.processes) == (Operation.RESTORE, {})


def test_a_crash_in_the_middle_of_a_write_leaves_the_old(journal: Journal, tmp_path: Path) -> None:
    """The file is replaced whole: half of a new one beside it changes nothing."""
    (tmp_path / "journal.tmp").write_bytes(b'{"oper')

    found = Journal(tmp_path).load()

    assert found == journal.entry


def test_a_note_that_cannot_be_written_changes_nothing(journal: Journal, tmp_path: Path) -> None:
    """What is in memory is what is on disk."""
    before = journal.entry
    (tmp_path / "journal.tmp").mkdir()

    with pytest.raises(CryoError, match="cannot write"):
        journal.note(phase=Phase.SAVE)

    assert journal.entry == before


def test_an_undo_goes_on_without_its_journal(journal: Journal, tmp_path: Path) -> None:
    """Once forgiven, a write that fails is known in memory, and the file says what it said."""
    before = journal.path.read_bytes()
    (tmp_path / "journal.tmp").mkdir()
    journal.allow_write_errors()

    journal.note(phase=Phase.THAW)

    assert journal.entry.phase is Phase.THAW
    assert journal.path.read_bytes() == before


DAMAGE = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b"\xff\xfe",
    b'{"operation": "sing", "image_path": "/i"}',
    b'{"operation": "restore", "image_path": "/i", "save_pid": "yesterday"}',
    b"[" * 100_000,
    b'{"x":' * 100_000,
)


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_a_damaged_journal_is_an_error_that_says_where(tmp_path: Path, number: int) -> None:
    """It is not taken for an empty one, for something may be frozen."""
    (tmp_path / journals.NAME).write_bytes(DAMAGE[number])

    with pytest.raises(InvalidArgument, match=journals.NAME) as caught:
        Journal(tmp_path).load()
    assert caught.value.remedy


def test_a_huge_journal_is_not_read(tmp_path: Path) -> None:
    """What we never write is not loaded into memory."""
    with (tmp_path / journals.NAME).open("wb") as file:
        file.truncate(5 << 20)

    with pytest.raises(InvalidArgument, match="larger"):
        Journal(tmp_path).load()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """The folder is root's own; a link in it is nothing of ours."""
    (tmp_path / "elsewhere").write_bytes(b"{}")
    (tmp_path / journals.NAME).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CryoError):
        Journal(tmp_path).load()


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_byte_may_be_wrong(tmp_path: Path, data: st.DataObject) -> None:
    """One flipped byte: the entry, another entry, or an error of ours."""
    journal = Journal(tmp_path)
    journal.open(Operation.CHECKPOINT, "/images/a")
    journal.processes([CudaProcess(pid=7, name="train")])
    raw = bytearray(journal.path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    journal.path.write_bytes(raw)

    with contextlib.suppress(InvalidArgument):
        assert isinstance(Journal(tmp_path).load(), Entry)


def test_fields_of_a_newer_version_are_passed_over(journal: Journal) -> None:
    """After a downgrade the older version still undoes what the newer one began."""
    raw = msgspec.json.decode(journal.path.read_bytes())
    journal.path.write_bytes(msgspec.json.encode({**raw, "newer": {"a": [1]}}))

    assert Journal(journal.path.parent).load() == journal.entry


def test_a_checkpoint_of_what_is_parked(tmp_path: Path) -> None:
    """It carries along who is frozen, is no park while it lasts, and leaves the park as it was."""
    journal = Journal(tmp_path)
    journal.open(Operation.PARK, "")
    journal.processes([CudaProcess(pid=7, name="train")])
    journal.note(engine=EngineName.PHASED, phase=Phase.FREEZE, gpu_bytes={"GPU-a": 5})
    journal.note(exec_processes=(1,), committed=True)
    before = journal.entry

    journal.open_from_park("/images/a", exit=True)
    journal.note(staging="/images/.x", save_pid=7, save_start=8, phase=Phase.COMMIT, committed=True)

    found = Journal(tmp_path).load()
    assert found is not None
    assert (found.operation, found.from_park, found.exit) == (Operation.CHECKPOINT, True, True)
    assert (found.processes, found.gpu_bytes) == (before.processes, before.gpu_bytes)
    assert not journal.parked

    journal.park_again()

    again = Journal(tmp_path).load()
    assert again is not None
    assert replace(again, opened_at=before.opened_at) == before
    assert journal.parked


def test_processes_of_several_containers(tmp_path: Path) -> None:
    """A process is a container and a number; those of one container alone are numbers."""
    journal = Journal(tmp_path)
    journal.open(Operation.CHECKPOINT, "/i")
    journal.processes([CudaProcess(pid=7, name="own"), CudaProcess(pid=7, name="b", container="b")])
    journal.process(7, "", "locking", container="b")

    found = Journal(tmp_path).load()

    assert found is not None
    assert {key: (p.name, p.state) for key, p in found.processes.items()} == {
        "7": ("own", "running"),
        "b/7": ("b", "locking"),
    }
    assert found.cuda_processes() == [CudaProcess(pid=7, name="own")]
    assert found.cuda_processes("b") == [CudaProcess(pid=7, name="b")]
    assert found.cuda_processes("c") == []
