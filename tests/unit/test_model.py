"""Names that travel: what may be an id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import CryoError, CudaError, InvalidArgument, RunscError
from shim.model import TaskRef, check_id, utcnow

GOOD = ("a", "A0", "a.b", "a-b_c.d", "0", "x" * 76, "a..b", "a--b")
BAD = (
    "",
    ".",
    "..",
    "a/b",
    "/",
    "-a",
    "a-",
    ".a",
    "a.",
    "_a",
    "a b",
    "a\n",
    "a+",
    "a*",
    "a:b",
    "a\0",
    "é",
    "²",
    "x" * 77,
    "x" * 100_000,
)


@pytest.mark.parametrize("text", GOOD)
def test_ids_that_work_in_containerd(text: str) -> None:
    """The same rule as there."""
    assert check_id("task id", text) == text
    assert str(TaskRef(namespace="ns", id=text)) == text


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text[:8]) + str(len(text)))
def test_ids_that_are_no_safe_file_names(text: str) -> None:
    """They are refused where they come in, in a short message."""
    with pytest.raises(InvalidArgument) as caught:
        TaskRef(namespace="ns", id=text)
    assert len(caught.value.message) < 400
    with pytest.raises(InvalidArgument):
        TaskRef(namespace=text, id="a")


@given(text=st.text(max_size=90))
def test_what_passes_is_one_file_name(text: str) -> None:
    """No separator, no hidden file, no glob, no line break, and ASCII only."""
    try:
        check_id("id", text)
    except InvalidArgument:
        return
    assert text.isascii()
    assert not set(text) & set("/\0\n*?[]+:~$ ")
    assert not text.startswith((".", "-"))


def test_errors_say_the_message_alone() -> None:
    """The remedy stands beside it, for the user interface."""
    assert str(CryoError("what", remedy="how")) == "what"
    error = RunscError("ps", 128, "boom", remedy="r")
    assert (str(error), error.line, error.status) == ("runsc ps failed: boom", "boom", 128)
    assert CudaError("x", pid=7).pid == 7


def test_records_are_in_utc() -> None:
    """A host's zone is no part of a record."""
    offset = utcnow().utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0
