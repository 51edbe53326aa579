"""The output of a selftest: plain lines, a timeline, or one JSON report at the end."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import TextIO

from shim.host.text import printable
from shim.model import Progress
from shim.selftest.outcome import KINDS, ON_GPU, Outcome, Proof, Span, Step
from shim.timeline import bars
from shim.timeline.style import Style, duration

_BAR = 44
_NAME = 11
_WHAT = 52
_DIGEST = 8
_SIMULATED = (
    "The GPU is simulated: gVisor treats it as a real one, and its memory is outside",
    "the sandbox, where only a freeze can copy it from.",
)
_REAL = ("The GPU is a real GPU of this host.",)
_KIB = 1 << 10


def size(count: int) -> str:
    """Format a number of bytes."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while value >= _KIB and len(units) > 1:
        value, units = value / _KIB, units[1:]
    return f"{value:.1f}".removesuffix(".0") + f" {units[0]}"


class JsonReporter:
    """Prints the report as JSON at the end, and nothing before."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, name: str, what: str) -> None:
        """Print nothing."""

    def progress(self, progress: Progress) -> None:
        """Print nothing."""

    def end(self, step: Step) -> None:
        """Print nothing."""

    def outcome(self, outcome: Outcome) -> None:
        """Print the report."""
        print(json.dumps(outcome.as_json(), indent=1), file=self._stream)


class PlainReporter:
    """Prints a line for each step, and the result."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, name: str, what: str) -> None:
        """Print nothing: `end` prints the step."""

    def progress(self, progress: Progress) -> None:
        """Print a warning immediately."""
        if progress.warning:
            self._print(f"warning: {progress.message}")

    def end(self, step: Step) -> None:
        """Print the step with its phases and durations."""
        phases = ", ".join(f"{s.phase} {duration(s.seconds)}" for s in step.spans)
        detail = " ".join(filter(None, (step.detail, f"({phases})" if phases else "")))
        self._print(f"{step.name}: {duration(step.ended_s - step.began_s)} {detail}".rstrip())

    def outcome(self, outcome: Outcome) -> None:
        """Print the result."""
        for line in verdict(outcome):
            self._print(line)

    def _print(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)


class StoryReporter:
    """Prints a timeline with a bar for each phase."""

    def __init__(self, stream: TextIO, style: Style | None = None) -> None:
        self._stream = stream
        self._style = style or Style.of(stream)
        self._what = ""

    def title(self, *, simulated: bool) -> None:
        """Print what the selftest does, and whether the GPU is simulated."""
        head = self._style.strong("cryo selftest")
        self._print(f"\n  {head}  checkpoints, kills and restores a live GPU container\n")
        for line in _SIMULATED if simulated else _REAL:
            self._print(f"  {line}")
        self._print("")

    def begin(self, name: str, what: str) -> None:
        """Show the current step on a terminal."""
        self._what = what
        self._live(f"{name:<{_NAME}} {what} ...")

    def progress(self, progress: Progress) -> None:
        """Show the progress on a terminal."""
        if progress.warning or not progress.message:
            return
        self._live(f"{progress.phase:<{_NAME}} {progress.message}")

    def end(self, step: Step) -> None:
        """Print the step and a bar for each phase."""
        style = self._style
        what = printable(", ".join(filter(None, (self._what, step.detail))))
        began = style.dim(f"{step.began_s:6.2f} s")
        took = duration(step.ended_s - step.began_s)
        self._clear()
        self._print(f"{began}  {style.strong(f'{step.name:<{_NAME}}')} {what:<{_WHAT}} {took:>8}")
        for span in step.spans:
            self._print(self._bar(span, step.ended_s - step.began_s))

    def _bar(self, span: Span, total_s: float) -> str:
        bar = bars.bar([(span.began_s, span.seconds)], total_s, _BAR, self._style)
        name = self._style.dim(f"{span.phase:<{_NAME - 1}}")
        detail = f"{duration(span.seconds):>8}  {printable(span.detail)}"
        return f"{'':12}{name}{bar} {detail}".rstrip()

    def outcome(self, outcome: Outcome) -> None:
        """Print the comparison and the result."""
        self._clear()
        if outcome.proofs:
            self._print("\n  The same moment in the life of each process, before and after:\n")
        kinds = list(KINDS)
        proofs = sorted(outcome.proofs, key=lambda p: (*_moment(p), kinds.index(p.kind)))
        for (pid, generation), mine in groupby(proofs, _moment):
            line = "   ".join(self._proof(proof) for proof in mine)
            self._print(f"    process {pid:<4} step {generation:<5} {line}")
        self._print("")
        for line in verdict(outcome):
            paint = self._style.good if outcome.passed else self._style.bad
            self._print(f"  {paint(printable(line))}")
        self._print("")

    def _proof(self, proof: Proof) -> str:
        digest = self._style.dim((proof.after or "gone")[:_DIGEST])
        mark = self._style.mark(good=proof.same)
        return f"{KINDS[proof.kind]} {size(proof.size_bytes)} {digest} {mark}"

    def _live(self, text: str) -> None:
        if self._style.live:
            self._stream.write(f"\r\x1b[K{self._style.dim(printable(text[:96]))}")
            self._stream.flush()

    def _clear(self) -> None:
        if self._style.live:
            self._stream.write("\r\x1b[K")

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _moment(proof: Proof) -> tuple[int, int]:
    return proof.pid, proof.generation


def verdict(outcome: Outcome) -> list[str]:
    """Return the lines of the result: what was restored, or what was not."""
    if outcome.passed:
        kinds = {"GPU memory": ON_GPU, "CPU memory": ("cpu",)}
        parts = [f"{size(outcome.total_bytes(*k))} of {name}" for name, k in kinds.items()]
        files = sum(1 for proof in outcome.proofs if proof.kind == "file")
        compared = f"{', '.join(parts)} and {files} files"
        lines = [
            f"Everything was restored intact: {compared}.",
            f"{_gpu(outcome)}, the engine was {outcome.engine}, runsc was real.",
        ]
        if outcome.image_path:
            lines.append(f"The image is at {outcome.image_path}, {size(outcome.image_bytes)}.")
        return lines
    lost = [f"{p.kind} of process {p.pid} differs" for p in outcome.proofs if not p.same]
    reasons = [text for text in (outcome.error, *outcome.losses, *lost) if text]
    lines = ["The selftest failed:", *(f"- {reason}" for reason in reasons)]
    return [*lines, *([f"remedy: {outcome.remedy}"] if outcome.remedy else [])]


def _gpu(outcome: Outcome) -> str:
    return "The GPU was simulated" if outcome.simulated else f"The GPU was {outcome.gpu}"


def for_terminal(
    *, story: bool, as_json: bool, simulated: bool
) -> JsonReporter | PlainReporter | StoryReporter:
    """Return the reporter that the options ask for, on standard output."""
    if as_json:
        return JsonReporter(sys.stdout)
    if not story:
        return PlainReporter(sys.stdout)
    reporter = StoryReporter(sys.stdout)
    reporter.title(simulated=simulated)
    return reporter
