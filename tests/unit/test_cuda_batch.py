"""The output of cryo-cuda's batch mode, which is untrusted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda.batch import VERSION, parse
from shim.errors import CryoError, CudaError, Unavailable
from shim.runsc.run import Completed

HEAD = {"cryo_cuda": VERSION, "verb": "find"}
INIT = {"step": "init", "ok": True, "cuda": 12080, "ms": 3}
END = {"step": "end", "ok": True}


def printed(*lines: object, status: int = 0, err: bytes = b"") -> Completed:
    """Make the output of a run."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return Completed(status=status, stdout=text.encode(), stderr=err)


@pytest.mark.parametrize(
    "done",
    (
        printed(),
        printed(END),
        printed({"cryo_cuda": 2}, END),
        Completed(status=0, stdout=b"\xff\xfe", stderr=b""),
        Completed(status=127, stdout=b"", stderr=b"no such library\n"),
        Completed(status=0, stdout=b'{"cryo_cuda":1,"text":"\xe0"}\n', stderr=b""),
        Completed(status=0, stdout=b'{"cryo_cuda":1,"x":' + b"[" * 100_000, stderr=b""),
        printed(HEAD, {"step": "init", "ok": False, "text": "no \x1b[31mdriver"}, END, status=127),
    ),
)
def test_unusable_output(done: Completed) -> None:
    """Another version, no output or no driver: cuda-checkpoint may work instead."""
    with pytest.raises(Unavailable) as caught:
        parse(done)

    assert len(caught.value.message) < 400
    assert caught.value.remedy


@pytest.mark.parametrize("last", (INIT, {"step": "end", "ok": False}))
def test_a_run_that_exited_early(last: dict[str, object]) -> None:
    """Output without its last line is not used at all."""
    with pytest.raises(CudaError):
        parse(
            printed(HEAD, INIT, {"step": "state", "pid": 3, "ok": True, "state": "running"}, last)
        )


def test_an_unknown_state() -> None:
    """It is an error, with a printable message of bounded length."""
    line = {"step": "state", "pid": 3, "ok": True, "state": "\x1b" * 5000}
    with pytest.raises(CudaError) as caught:
        parse(printed(HEAD, INIT, line, END))

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("ms", "took_s"), ((0, 0.0), (514, 0.514), (-1, 0.0), (1 << 62, (1 << 32) / 1000))
)
def test_how_long_a_move_took(ms: int, took_s: float) -> None:
    """The time is in seconds, and bounded."""
    line = {"step": "lock", "pid": 3, "ok": True, "state": "locked", "ms": ms}

    [move] = parse(printed(HEAD, INIT, line, END)).moves

    assert move.took_s == took_s


@given(st.binary(max_size=300))
def test_any_bytes(noise: bytes) -> None:
    """Any output is parsed or is a typed error."""
    head = json.dumps(HEAD).encode()
    for text in (noise, head + b"\n" + noise + b"\n" + json.dumps(END).encode()):
        try:
            parse(Completed(status=0, stdout=text, stderr=noise))
        except CryoError as error:
            assert len(error.message) < 400  # noqa: PT017  # either way is fine
