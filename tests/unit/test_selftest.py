"""How a selftest is judged and reported, without running one."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shim import model
from shim.cuda.inventory import Gpu, Inventory
from shim.entry.cli import selftest
from shim.errors import FailedPrecondition
from shim.model import Phase, Progress, Timeline
from shim.selftest import command, timeline
from shim.selftest.outcome import Outcome, Span, Step, compare
from shim.selftest.report import (
    JsonReporter,
    PlainReporter,
    StoryReporter,
    size,
    verdict,
)
from shim.selftest.runner import check_begun, other_gpus
from shim.simgpu.guest import pattern
from shim.simgpu.status import ProcessStatus, Status
from shim.timeline.style import Style, duration

SIZE = pattern.SLOT
THAW = Span("thaw", 3, 4)


def status(*, generation: int = 7, digest: str = "", pid: int = 3) -> Status:
    """Return a workload of one process; `digest` in place of the right one."""
    right = pattern.expected_digest("k", SIZE, generation)
    process = ProcessStatus(
        pid=pid,
        index=0,
        state="running",
        generation=generation,
        losses=(),
        misuse=(),
        stores={"gpu": {"key": "k", "bytes": SIZE}},
        digests={"gpu": digest or right},
    )
    return Status(node="n", processes=(process,), holders=(), ended=(), resident_ok=True)


def outcome(before: Status, after: Status) -> Outcome:
    """Return what a selftest would have found."""
    return Outcome(engine="phased", proofs=compare(before, after))


def test_same_bytes_at_the_same_generation_pass() -> None:
    """Three equal digests are a proof."""
    assert outcome(status(), status()).passed


@pytest.mark.parametrize(
    ("before", "after"),
    (
        (status(), status(digest="other")),
        (status(digest="other"), status()),
        (status(digest="other"), status(digest="other")),
        (status(), status(generation=8)),
        (status(), status(pid=4)),
    ),
    ids=("after differs", "before differs", "both wrong", "another moment", "process gone"),
)
def test_anything_else_fails(before: Status, after: Status) -> None:
    """A difference in any of the three, or another moment, is no proof."""
    found = outcome(before, after)

    assert not found.passed
    assert "gpu of process 3 differs" in "\n".join(verdict(found))


def test_nothing_compared_is_no_pass() -> None:
    """A selftest that never came to compare has not passed."""
    assert not Outcome().passed


@pytest.mark.parametrize("what", ({"losses": ["x"]}, {"error": "x"}))
def test_a_loss_or_an_error_fails(what: dict[str, object]) -> None:
    """Equal digests do not make up for a loss on the way."""
    found = outcome(status(), status())
    for name, value in what.items():
        setattr(found, name, value)

    assert not found.passed
    assert "- x" in verdict(found)


def test_the_phases_are_those_that_the_owner_recorded() -> None:
    """The locks within a freeze are a phase of their own; what is too short is left out."""
    recorded = Timeline(
        operation="checkpoint",
        task="a",
        began_at=datetime(2026, 11, 30, tzinfo=UTC),
        size_bytes=3 << 20,
        spans=(
            model.Span(phase=Phase.PREFLIGHT, start_s=0.0, duration_s=0.125),
            model.Span(phase=Phase.PREFLIGHT, start_s=0.25, duration_s=0.25),
            model.Span(phase=Phase.FREEZE, start_s=0.5, duration_s=0.5),
            model.Span(phase=Phase.LOCK, pid=3, start_s=0.5, duration_s=0.125),
            model.Span(phase=Phase.FREEZE, pid=3, start_s=0.625, duration_s=0.25),
            model.Span(phase=Phase.SAVE, start_s=1.0, duration_s=1.0),
            model.Span(phase=Phase.COMMIT, start_s=2.0, duration_s=0.0001),
        ),
    )

    found = timeline.drawn(recorded, {Phase.SAVE: "all in one"})

    assert [(s.phase, s.began_s, s.ended_s, s.detail) for s in found] == [
        ("preflight", 0.0, 0.5, ""),
        ("lock", 0.5, 0.625, ""),
        ("freeze", 0.625, 1.0, ""),
        ("save", 1.0, 2.0, "3.0 MiB, all in one"),
    ]


@pytest.mark.parametrize(
    ("engine", "wanted"),
    (
        ("phased", [("checkpoint", "freeze"), ("checkpoint", "save"), ("restore", "thaw")]),
        ("builtin", [("checkpoint", "save"), ("restore", "thaw")]),
    ),
)
def test_a_rate_is_of_what_moves_memory(engine: str, wanted: list[tuple[str, str]]) -> None:
    """With the built-in engine the freeze is in the save; our phase of that name only looks."""
    found = outcome(status(), status())
    found.engine = engine
    saved = (Span("preflight", 0, 1), Span("freeze", 1, 2), Span("save", 2, 3))
    found.steps = [Step("checkpoint", 0, 3, spans=saved), Step("restore", 3, 4, spans=(THAW,))]

    assert [(rate["step"], rate["phase"]) for rate in found.rates()] == wanted
    assert {rate["gpu_bytes"] for rate in found.rates()} == {SIZE}


def test_a_workload_that_cannot_begin_says_why(tmp_path: Path) -> None:
    """A process that found no memory has ended, with its last words in the log."""
    log = tmp_path / "workload.log"
    begun = status()
    check_begun(begun, log)
    ended = replace(begun, processes=(), ended=({"pid": 4, "status": 1},))
    with pytest.raises(FailedPrecondition, match="printed nothing"):
        check_begun(ended, log)
    log.write_text("first\nsimgpu: process 4: cuMemAlloc_v2 returned 2\n", "utf-8")

    with pytest.raises(FailedPrecondition, match=r"process 4 ended with 1: .*returned 2"):
        check_begun(ended, log)


A, B, C = (Gpu(uuid=f"GPU-{name}") for name in "abc")


@pytest.mark.parametrize(
    ("gpus", "version", "wanted"),
    (
        ((A, B), "580.65.06", {A.uuid: B.uuid, B.uuid: A.uuid}),
        ((A, B, C), "580.65.06", {A.uuid: B.uuid, B.uuid: C.uuid, C.uuid: A.uuid}),
        ((A,), "580.65.06", {}),
        ((A, B), "570.124.06", {}),
        ((), "", {}),
    ),
)
def test_a_restore_goes_to_another_gpu(
    gpus: tuple[Gpu, ...], version: str, wanted: dict[str, str]
) -> None:
    """With several GPUs and a driver that can remap, each gets its work on the next."""
    assert other_gpus(Inventory(driver=version, gpus=gpus)) == wanted


STEP = Step("checkpoint", 1.0, 2.0, "engine phased", (Span("save", 0.25, 0.75, "3.0 MiB"),))


def test_story_draws_a_phase_where_it_was() -> None:
    """A phase from a quarter to three quarters of its step has a bar there."""
    stream = io.StringIO()
    story = StoryReporter(stream, Style())
    story.begin("checkpoint", "while it runs")
    story.end(STEP)
    line = stream.getvalue().splitlines()[1]

    bar = line[22:66]
    assert (bar.index("━"), bar.count("━")) == (11, 22)
    assert line.endswith("500 ms  3.0 MiB")


def test_story_without_a_terminal_has_no_control_characters() -> None:
    """Into a file or a pipe goes plain text only."""
    stream = io.StringIO()
    story = StoryReporter(stream, Style.of(stream))
    story.title(simulated=True)
    story.begin("checkpoint", "while it runs")
    story.progress(Progress(phase=Phase.SAVE, message="progress"))
    story.end(STEP)
    story.outcome(outcome(status(), status()))

    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()
    assert "Everything was restored intact" in stream.getvalue()


def test_story_says_that_the_gpu_is_simulated() -> None:
    """The demo says that the hardware is simulated."""
    stream = io.StringIO()
    story = StoryReporter(stream, Style())
    story.title(simulated=True)
    story.outcome(outcome(status(), status()))

    assert stream.getvalue().count("simulated") == 2


def test_plain_reports_a_step_in_one_line() -> None:
    """Without --story each step is a line with its phases."""
    stream = io.StringIO()
    PlainReporter(stream).end(STEP)

    assert stream.getvalue() == "checkpoint: 1.00 s engine phased (save 500 ms)\n"


def test_report_is_json_with_everything() -> None:
    """--json prints one object that says whether it passed and why."""
    stream = io.StringIO()
    JsonReporter(stream).outcome(outcome(status(), status(digest="other")))
    report = json.loads(stream.getvalue())

    assert report["passed"] is False
    assert report["proofs"][0]["same"] is False
    assert {"host", "steps", "losses", "warnings", "engine", "format"} <= set(report)


@pytest.mark.parametrize(
    ("count", "text"), ((0, "0 B"), (1536, "1.5 KiB"), (1 << 20, "1 MiB"), (5 << 40, "5120 GiB"))
)
def test_sizes_are_readable(count: int, text: str) -> None:
    """Bytes are written with the unit that fits."""
    assert size(count) == text


def test_durations_are_readable() -> None:
    """Below a second a duration is in milliseconds."""
    assert [duration(s) for s in (0.0123, 1.5)] == ["12 ms", "1.50 s"]


def test_runsc_of_make_tools_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one on PATH the newest that `make tools` has fetched is taken."""
    runsc = tmp_path / "runsc"
    runsc.touch(mode=0o755)
    (tmp_path / "runsc-new.json").write_text(json.dumps({"path": ""}), "utf-8")
    (tmp_path / "runsc-old.json").write_text(json.dumps({"path": str(runsc)}), "utf-8")
    monkeypatch.setenv("CRYO_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))

    assert command.find_runsc(None) == runsc
    assert command.find_runsc(Path("/given")) == Path("/given")


def test_no_runsc_is_said_in_one_line_with_its_own_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where runsc cannot run the status is 77, and stderr has one line."""
    monkeypatch.setenv("CRYO_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.selftest() == command.CANNOT_RUN
    out, err = capsys.readouterr()

    assert out == ""
    assert len(err.splitlines()) == 1
    assert "cannot run here" in err


def test_where_it_is_not_installed_the_command_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its package the command fails with what to install, whatever its options."""
    monkeypatch.setitem(sys.modules, "shim.selftest.command", None)

    with pytest.raises(FailedPrecondition, match="not installed") as caught:
        selftest.load().main(["--json", "--rounds", "2"], standalone_mode=False)

    assert "cryoshim[selftest]" in caught.value.remedy
