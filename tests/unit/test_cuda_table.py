"""What is known of a container's CUDA processes: names, states and error texts."""

from __future__ import annotations

import pytest

from shim.cuda.detect import Holder, Scan
from shim.cuda.moves import Action
from shim.cuda.table import ProcessTable
from shim.errors import CryoError, CudaError, DeadlineExceeded, ResourceExhausted, RunscError
from shim.model import CudaProcess, CudaState, Phase, Progress

RUNNING, LOCKED, FROZEN = CudaState.RUNNING, CudaState.LOCKED, CudaState.CHECKPOINTED


def table(container: str = "") -> ProcessTable:
    """Make a table of one running process, 7, that reports and records nothing."""
    made = ProcessTable(lambda _: None, lambda *_: None, container=container)
    made.add([Holder(pid=7, name="train")], {7: RUNNING})
    return made


def test_only_new_holders_with_a_state_are_added() -> None:
    """Others hold a device without CUDA state; a known process keeps its last state."""
    made = table()
    holders = tuple(Holder(pid=pid, name=f"p{pid}") for pid in (7, 8, 9))

    assert made.add(holders, {7: LOCKED, 8: None, 9: RUNNING}) == [9]
    made.note_others(Scan(method="shell", holders=holders))

    assert made.states == {7: RUNNING, 9: RUNNING}
    assert [holder.pid for holder in made.non_cuda_holders] == [8]


def test_a_state_goes_to_the_journal_and_to_the_caller() -> None:
    """One entry and one report, with the container and how long it took."""
    reports, records = list[Progress](), list[tuple[int, str, str]]()
    made = ProcessTable(reports.append, lambda *row: records.append(row), container="b")
    made.adopt([CudaProcess(pid=7, name="train")])

    made.update(7, LOCKED, phase=Phase.LOCK, took_s=0.5)

    assert records == [(7, "train", "locked")]
    assert reports == [
        Progress(phase=Phase.LOCK, pid=7, pid_state="locked", container="b", took_s=0.5)
    ]
    assert made.in_state(LOCKED) == [7]
    assert made.not_running() == {7: LOCKED}


def test_a_wrong_state_is_an_error() -> None:
    """The error names the process, the move, and both states."""
    made = table("b")

    assert made.wrong_state(Action.LOCK, 7, LOCKED) is None
    for state, what in ((RUNNING, "running"), (None, "without a state")):
        error = made.wrong_state(Action.LOCK, 7, state)
        assert error is not None
        assert error.message == f"process 7 (train) of b is {what} after lock, not locked"
        assert error.pid == 7


@pytest.mark.parametrize("kind", (CudaError, DeadlineExceeded, ResourceExhausted))
def test_an_error_gets_the_name_of_its_process(kind: type[CryoError]) -> None:
    """And its last state, once; the class and the remedy stay."""
    made = table()
    error = made.with_label(7, kind("could not lock process 7: no", remedy="wait"))

    assert type(error) is kind
    assert error.message == "could not lock process 7 (train): no; it was running"
    assert error.remedy == "wait"
    assert made.with_label(7, error) is error


def test_other_errors_stay_as_they_are() -> None:
    """An error of runsc is its own, and one without the process's number has no place for it."""
    made = table()
    for error in (RunscError("ps", 128, "process 7"), CudaError("no driver")):
        assert made.with_label(7, error) is error


def test_a_name_that_was_seen_is_used_for_an_unknown_process() -> None:
    """A holder of a device is named in an error before its state is known."""
    made = table("b")
    made.note_names([Holder(pid=8, name="infer")])

    assert made.label(8) == "8 (infer) of b"
    assert made.label(9) == "9 of b"
