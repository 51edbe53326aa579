"""cuda-checkpoint's command lines, and what its answers mean."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda import driver
from shim.cuda.moves import Action
from shim.cuda.tool import Tool, last_line, move_error
from shim.errors import CryoError, CudaError, DeadlineExceeded, NotFound, ResourceExhausted
from shim.model import CudaState
from shim.runsc.run import Completed
from tests.unit.fakes_guest import TOOL, Cuda, FakeGuest, Fault, failed, says

MAP = {"GPU-b": "GPU-d", "GPU-a": "GPU-c"}


def tool(guest: FakeGuest, version: str = "580.65.06") -> Tool:
    """Make the tool of a driver."""
    return Tool(guest, TOOL, driver.capabilities(version))


GOLDEN = (
    ("555.42.02", Action.LOCK, ["--action", "lock", "--pid", "7"]),
    ("570.124.06", Action.LOCK, ["--action", "lock", "--pid", "7", "--timeout", "2500"]),
    ("580.65.06", Action.CHECKPOINT, ["--action", "checkpoint", "--pid", "7"]),
    ("570.124.06", Action.RESTORE, ["--action", "restore", "--pid", "7"]),
    (
        "580.65.06",
        Action.RESTORE,
        ["--action", "restore", "--pid", "7", "--device-map", "GPU-a=GPU-c,GPU-b=GPU-d"],
    ),
    ("580.65.06", Action.UNLOCK, ["--action", "unlock", "--pid", "7"]),
)


@pytest.mark.parametrize(("version", "action", "expected"), GOLDEN)
async def test_each_command_line(version: str, action: Action, expected: list[str]) -> None:
    """Only what this driver's tool understands is said, and always about one process."""
    guest = FakeGuest([Cuda(7)])
    guest.faults[action.value, 7] = Fault(answer=says(""))

    await tool(guest, version).act(action, 7, timeout_s=2.5, device_map=MAP)

    assert guest.calls == [[TOOL, *expected]]


async def test_the_state_is_asked_for() -> None:
    """One word is the answer."""
    guest = FakeGuest([Cuda(7, state=CudaState.LOCKED)])

    assert await tool(guest).state(7, timeout_s=1) is CudaState.LOCKED
    assert guest.calls == [[TOOL, "--get-state", "--pid", "7"]]


async def test_nothing_is_ever_toggled() -> None:
    """A toggle inverts: where there are actions it is never used."""
    guest = FakeGuest([Cuda(7)])
    spoken = tool(guest)

    for action in Action:
        await spoken.act(action, 7, timeout_s=1)
        await spoken.state(7, timeout_s=1)

    assert not any("--toggle" in argv for argv in guest.calls)
    assert guest.state(7) is CudaState.RUNNING


async def test_the_driver_gives_up_before_we_do() -> None:
    """The tool is left a few seconds to come back by itself, for a kill leaves things half way."""
    guest = FakeGuest([Cuda(7)])

    await tool(guest).act(Action.LOCK, 7, timeout_s=2)

    assert guest.timeouts == [("lock", 7.0)]


async def test_without_a_lock_timeout_we_count_ourselves() -> None:
    """Driver 555 waits without end: then the deadline is ours."""
    guest = FakeGuest([Cuda(7)])

    await tool(guest, "555.42.02").act(Action.LOCK, 7, timeout_s=2)

    assert guest.timeouts == [("lock", 2)]


@pytest.mark.parametrize("verb", ("get-state", "checkpoint"))
async def test_a_tool_that_hangs(verb: str) -> None:
    """The error names the command and the process, and what may hold it up."""
    guest = FakeGuest([Cuda(7, state=CudaState.LOCKED)])
    guest.faults[verb, 7] = Fault(hang=True)
    spoken = tool(guest)
    if verb == "get-state":
        asking: Awaitable[object] = spoken.state(7, timeout_s=0.01)
    else:
        asking = spoken.act(Action.CHECKPOINT, 7, timeout_s=0.01)

    with pytest.raises(DeadlineExceeded, match=f"{verb} on process 7 did not end") as caught:
        await asking
    assert "NCCL" in caught.value.remedy


@pytest.mark.parametrize("state", tuple(CudaState))
async def test_every_state_has_its_word(state: CudaState) -> None:
    """The words of the tool are the names of the states, spaces and line ends aside."""
    guest = FakeGuest([Cuda(7)])
    guest.faults["get-state", 7] = Fault(answer=says(f" {state}\n\n"))

    assert await tool(guest).state(7, timeout_s=1) is state


async def test_a_process_without_cuda_has_no_state() -> None:
    """NVML users and processes that are gone have none, which is no error."""
    guest = FakeGuest([Cuda(7, state=None)])

    assert await tool(guest).state(7, timeout_s=1) is None
    assert await tool(guest).state(99, timeout_s=1) is None


LIBRARY = "cuda-checkpoint: error while loading shared libraries: libcuda.so.1: cannot open"
UNUSABLE = (
    failed(LIBRARY, 127),
    failed("sh: cuda-checkpoint: Permission denied", 126),
    failed("", 137),
    failed("Segmentation fault", 139),
    Completed(status=-9, stdout=b"", stderr=b""),
)


@pytest.mark.parametrize("answer", UNUSABLE, ids=lambda done: str(done.status))
async def test_a_tool_that_cannot_run_says_nothing_of_a_process(answer: Completed) -> None:
    """Else every CUDA process would pass for one without state, and be saved running."""
    guest = FakeGuest([Cuda(7)])
    guest.faults["get-state", 7] = Fault(answer=answer)

    with pytest.raises(CudaError, match="cannot be run") as caught:
        await tool(guest).state(7, timeout_s=1)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ("", "checkpointing", "RUNNING", "state: running", "x" * 5000))
async def test_an_answer_that_is_no_state(text: str) -> None:
    """A tool of another kind is not believed."""
    guest = FakeGuest([Cuda(7)])
    guest.faults["get-state", 7] = Fault(answer=says(text))

    with pytest.raises(CudaError, match="returned an unknown state for process 7") as caught:
        await tool(guest).state(7, timeout_s=1)
    assert len(caught.value.message) < 400


async def test_no_tool() -> None:
    """That the image has no such program comes up as it is."""
    with pytest.raises(NotFound):
        await tool(FakeGuest([Cuda(7)], tool=False)).state(7, timeout_s=1)


REFUSALS = (
    ("CUDA error: out of memory", ResourceExhausted),
    ("OUT OF MEMORY", ResourceExhausted),
    ("operation not supported", CudaError),
    ("invalid argument", CudaError),
)


@pytest.mark.parametrize(("words", "kind"), REFUSALS)
async def test_a_refusal_has_the_tools_words(words: str, kind: type[CryoError]) -> None:
    """Which process, which action, why; out of memory is a class of its own."""
    guest = FakeGuest([Cuda(7, state=CudaState.CHECKPOINTED)])
    guest.faults["restore", 7] = Fault(answer=failed(f"Could not restore\n{words}"))

    with pytest.raises(kind, match=f"could not restore process 7: {words}"):
        await tool(guest).act(Action.RESTORE, 7, timeout_s=1)


async def test_a_lock_that_the_driver_gives_up_is_a_deadline() -> None:
    """A lock that ends at the driver's own timeout is late, not broken, and says what may help."""
    guest = FakeGuest([Cuda(7)])
    guest.faults["lock", 7] = Fault(answer=failed('Could not lock: "device not ready"'))

    with pytest.raises(DeadlineExceeded, match="could not lock process 7 in time") as caught:
        await tool(guest).act(Action.LOCK, 7, timeout_s=1)
    assert "[timeouts]" in caught.value.remedy


def test_the_last_line_of_a_silent_tool() -> None:
    """Without any output it is the exit status."""
    assert (
        last_line(Completed(status=3, stdout=b"", stderr=b" \n")) == "exit status 3 and no message"
    )
    assert last_line(Completed(status=3, stdout=b"out\n", stderr=b"")) == "out"


@given(out=st.binary(max_size=500), err=st.binary(max_size=500), status=st.integers(-64, 255))
async def test_whatever_the_tool_prints(out: bytes, err: bytes, status: int) -> None:
    """A state, none, or a typed error with a short message."""
    done = Completed(status=status, stdout=out, stderr=err)
    guest = FakeGuest([Cuda(7)])
    guest.faults["get-state", 7] = Fault(answer=done)
    message = ""
    try:
        await tool(guest).state(7, timeout_s=1)
    except CudaError as error:
        message = error.message
    assert len(message) < 400
    words = last_line(done)
    assert len(words) <= 200
    assert len(move_error(Action.LOCK, 7, words).message) < 400
