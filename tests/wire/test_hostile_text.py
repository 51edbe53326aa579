"""Text of a container or an image, at every place where text leaves this project."""

from __future__ import annotations

import io
import logging
import sys
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.entry import logs
from shim.entry.cli import app
from shim.entry.cli.checkpoint import _summary
from shim.entry.cli.live import LiveProgress
from shim.entry.cli.progress import Lines, Renderer
from shim.entry.cli.settings import Settings
from shim.entry.cli.table import table
from shim.entry.shimbin.logfifo import _cut
from shim.errors import CryoError, CudaError, RunscError
from shim.model import (
    CheckpointResult,
    CudaProcess,
    Phase,
    Progress,
    RestoreResult,
    TaskView,
)
from shim.selftest.outcome import Outcome, Step
from shim.selftest.report import PlainReporter, StoryReporter
from shim.service import cryo_messages, status
from shim.state import TaskState
from shim.timeline.style import Style
from tests.wire.helpers_logs import fields_of

FORGED = "\nERROR cryo: forged\r\n"
CORPUS = (
    "\x1b[31mred",
    "\x1b]52;c;aGk=\x07",
    "\x1b]0;title\x9c",
    "\x9b2J",
    "\u202egnp.exe",
    "\u2066\u2069",
    "\r",
    "\x08\x08",
    "\u2028",
    "\udcff",
    "\x00",
    FORGED,
)
ACTING = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
HOSTILE = st.lists(
    st.sampled_from(CORPUS) | st.text(min_size=1, max_size=8), min_size=1, max_size=6
).map("x".join)
Output = Callable[[str], str]


def progress(text: str, *, warning: bool = False) -> Progress:
    """Make a progress update."""
    return Progress(phase=Phase.SAVE, message=text, warning=warning)


def by(output: Callable[[Any], Any], *updates: Progress) -> str:
    """Return what a progress output writes, without its own control codes."""
    out = io.StringIO()
    reported = output(out)
    for one in updates:
        reported(one)
    return out.getvalue().replace("\r\x1b[K", "\n")


def printed(act: Callable[[], object]) -> str:
    """Return what is printed to stdout and stderr."""
    out = io.StringIO()
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = out
    try:
        act()
    finally:
        sys.stdout, sys.stderr = before
    return out.getvalue()


def logged(formatter: logging.Formatter, text: str, *, raised: bool = False) -> str:
    """Return a record as a log has it."""
    info = None
    if raised:
        error = ValueError(text)
        info = type(error), error, None
    record = logging.LogRecord("cryo", logging.INFO, "", 0, "said: %s", (text,), info)
    return formatter.format(record)


def reported(reporter: PlainReporter | StoryReporter, text: str) -> str:
    """Return what a selftest prints."""
    step = Step(name="save", began_s=0, ended_s=1, detail=text)
    reporter.begin("save", text)
    reporter.progress(progress(text))
    reporter.progress(progress(text, warning=True))
    reporter.end(step)
    reporter.outcome(Outcome(error=text, remedy=text))
    stream = reporter._stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def checkpointed(text: str) -> CheckpointResult:
    """Make the outcome of a checkpoint."""
    return CheckpointResult(
        image_path="/i",
        size_bytes=1,
        digest="",
        engine=text,
        processes=(CudaProcess(pid=1, name=text),),
        warnings=(text,),
        timings_s={},
    )


def texts(message: Message) -> str:
    """Return every text of a message, each on a line of its own."""
    found = []
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        found += [one for one in values if isinstance(one, str) and field.name != "image_path"]
        found += [texts(one) for one in values if isinstance(one, Message)]
    return "\n".join(found)


def complaint(text: str) -> str:
    """Return what the command line prints of an error."""
    return printed(lambda: app._complain(text, text))


def summary(text: str) -> str:
    """Return what the command line prints of a checkpoint."""

    def show() -> None:
        result = checkpointed(text)
        _summary(result, text)
        Renderer().print_others(result.warnings)

    return printed(show)


def task(text: str) -> TaskView:
    """Make a line of the listing of tasks."""
    return TaskView(
        namespace="n",
        id="t",
        bundle="/b",
        pid=1,
        state=TaskState.RUNNING,
        created_at=datetime.now(UTC),
        warning=text,
    )


def fifo_line(text: str) -> str:
    """Return a line of a shim's log as containerd reads it."""
    return _cut(logged(logs.Logfmt("cryo"), text, raised=True).encode("utf-8", "replace")).decode()


EDGES: dict[str, Output] = {
    "error of the command line": complaint,
    "summary of the command line": summary,
    "cell of a table": lambda text: table(("A", "B"), [(text, 1), (2, text)]),
    "result of the command line": lambda text: printed(
        lambda: Settings("", "", as_json=False).show(None, table(("A",), [(text,)]))
    ),
    "JSON of the command line": lambda text: printed(
        lambda: Settings("", "", as_json=True).show({"a": text}, "")
    ),
    "progress line": lambda text: by(Lines, progress(text), progress(text, warning=True)),
    "live progress": lambda text: by(LiveProgress, progress(text), progress(text, warning=True)),
    "logfmt log": lambda text: logged(logs.Logfmt(), text),
    "JSON log": lambda text: logged(logs.Json(), text, raised=True),
    "log of a shim": lambda text: logged(logs.Logfmt("cryo"), text, raised=True),
    "fifo of a shim's log": fifo_line,
    "status of a call": lambda text: status.details_of(CryoError(text, remedy=text)),
    "error of a call": lambda text: texts(status.info_of(CudaError(text, pid=1, remedy=text))),
    "error of runsc": lambda text: texts(status.info_of(RunscError("create", 1, text))),
    "progress over the wire": lambda text: texts(cryo_messages.to_progress(progress(text))),
    "task over the wire": lambda text: texts(cryo_messages.to_task(task(text))),
    "selftest in lines": lambda text: reported(PlainReporter(io.StringIO()), text),
    "selftest as a story": lambda text: reported(
        StoryReporter(io.StringIO(), Style(live=True)), text
    ),
}


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES.keys())
@given(text=HOSTILE)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_text_acts_on_a_terminal_or_forges_a_line(edge: Output, text: str) -> None:
    """Hostile text comes out with as many lines as harmless text, and none of its codes acts."""
    shown = edge(text).replace("\r\x1b[K", "\n")
    harmless = edge("x").replace("\r\x1b[K", "\n")

    left = {unicodedata.category(c) for c in shown if c != "\n"} & ACTING
    assert not left
    assert len(shown.splitlines()) == len(harmless.splitlines())
    shown.encode("utf-8")


@pytest.mark.parametrize("text", CORPUS)
def test_results_over_the_wire(text: str) -> None:
    """Warnings and names of a checkpoint or a restore are made safe, and can be sent at all."""
    made = checkpointed(text)
    back = RestoreResult(pid=1, engine="phased", processes=made.processes, warnings=made.warnings)

    for message in (
        cryo_messages.to_checkpoint_result(msgspec.structs.replace(made, engine="phased")),
        cryo_messages.to_restore_result(back),
    ):
        shown = texts(message)
        assert not {unicodedata.category(c) for c in shown if c != "\n"} & ACTING
        assert "\nERROR" not in shown


def test_a_traceback_is_on_the_line_of_its_record() -> None:
    """A line of a traceback cannot be taken for a record of its own."""
    line = logged(logs.Logfmt(), FORGED, raised=True)

    assert "\n" not in line
    assert fields_of(line)["exception"].startswith("ValueError: ")


def test_the_fields_of_a_log_cannot_be_forged() -> None:
    """A quote in a message ends no value: level and runtime are the record's own."""
    line = logged(logs.Logfmt("cryo"), 'x" level=error msg="forged')

    found = fields_of(line)
    assert found["msg"] == 'said: x" level=error msg="forged'
    assert (found["level"], found["runtime"]) == ("info", "cryo")


@pytest.mark.parametrize("filler", ("a", "\\", '"', "\u00e9", '\\"'))
@pytest.mark.parametrize("more", range(4))
def test_a_line_that_is_cut_can_be_parsed(filler: str, more: int) -> None:
    """What a pipe does not take in one write is left out; the rest keeps its form."""
    line = fifo_line("b" * more + filler * 4000)

    assert len(line.encode()) <= 4000
    assert fields_of(line)["msg"].startswith("said: ")
