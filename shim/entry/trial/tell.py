"""Ways to tell of a selftest: plain lines, a story with bars, or nothing until the end."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from itertools import groupby
from typing import TextIO

from shim.entry.trial.outcome import KINDS, ON_GPU, Outcome, Proof, Span, Step
from shim.host.text import printable
from shim.model import Progress

_BAR = 44
_NAME = 11
_WHAT = 52
_DIGEST = 8
_SIMULATED = (
    "The GPU is simulated: gVisor guards it as it guards a real one, and its memory",
    "is outside the sandbox, where only a proper freeze can fetch it from.",
)
_REAL = ("The GPU is the one of this host.",)
_KIB = 1 << 10


def duration(seconds: float) -> str:
    """Write a duration as a person would."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def size(count: int) -> str:
    """Write a number of bytes as a person would."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while value >= _KIB and len(units) > 1:
        value, units = value / _KIB, units[1:]
    return f"{value:.1f}".removesuffix(".0") + f" {units[0]}"


@dataclass(frozen=True)
class Style:
    """What the terminal can show."""

    color: bool = False
    unicode: bool = True
    live: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """Look at the terminal and at NO_COLOR."""
        terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        encoding = (stream.encoding or "").lower().replace("-", "")
        color = terminal and not os.environ.get("NO_COLOR")
        return cls(color=color, unicode=encoding == "utf8", live=terminal)

    def paint(self, code: str, text: str) -> str:
        """Colour some text, where there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def dim(self, text: str) -> str:
        """Make text step back."""
        return self.paint("2", text)

    def good(self, text: str) -> str:
        """Make text look well."""
        return self.paint("32", text)

    def bad(self, text: str) -> str:
        """Make text look wrong."""
        return self.paint("1;31", text)

    def strong(self, text: str) -> str:
        """Make text stand out."""
        return self.paint("1", text)

    def mark(self, *, good: bool) -> str:
        """Return a tick or a cross."""
        ticks = ("✓", "✗") if self.unicode else ("ok", "LOST")
        return self.good(ticks[0]) if good else self.bad(ticks[1])


class Silent:
    """Says nothing on the way, and the report as JSON at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, name: str, what: str) -> None:
        """Say nothing."""

    def progress(self, progress: Progress) -> None:
        """Say nothing."""

    def end(self, step: Step) -> None:
        """Say nothing."""

    def outcome(self, outcome: Outcome) -> None:
        """Print the report."""
        print(json.dumps(outcome.as_json(), indent=1), file=self._stream)


class Plain:
    """A line per step, and one at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, name: str, what: str) -> None:
        """Say nothing: the end of the step says it."""

    def progress(self, progress: Progress) -> None:
        """Repeat a warning at once."""
        if progress.warning:
            self._say(f"warning: {progress.message}")

    def end(self, step: Step) -> None:
        """Tell the step, its phases and its times."""
        phases = ", ".join(f"{s.phase} {duration(s.seconds)}" for s in step.spans)
        told = " ".join(filter(None, (step.detail, f"({phases})" if phases else "")))
        self._say(f"{step.name}: {duration(step.ended_s - step.began_s)} {told}".rstrip())

    def outcome(self, outcome: Outcome) -> None:
        """Tell what came of it."""
        for line in verdict(outcome):
            self._say(line)

    def _say(self, line: str) -> None:
        print(printable(line), file=self._stream, flush=True)


class Story:
    """A timeline that a person enjoys reading."""

    def __init__(self, stream: TextIO, style: Style | None = None) -> None:
        self._stream = stream
        self._style = style or Style.of(stream)
        self._what = ""

    def title(self, *, simulated: bool) -> None:
        """Say what is going to happen, and whether the GPU is a real one."""
        head = self._style.strong("cryo selftest")
        self._say(f"\n  {head}  a live GPU container is frozen, saved, killed and brought back\n")
        for line in _SIMULATED if simulated else _REAL:
            self._say(f"  {line}")
        self._say("")

    def begin(self, name: str, what: str) -> None:
        """Show on a terminal what is being done."""
        self._what = what
        self._live(f"{name:<{_NAME}} {what} ...")

    def progress(self, progress: Progress) -> None:
        """Show on a terminal how it gets on."""
        if progress.warning or not progress.message:
            return
        self._live(f"{progress.phase:<{_NAME}} {progress.message}")

    def end(self, step: Step) -> None:
        """Tell the step and draw its phases."""
        style = self._style
        what = printable(", ".join(filter(None, (self._what, step.detail))))
        began = style.dim(f"{step.began_s:6.2f} s")
        took = duration(step.ended_s - step.began_s)
        self._clear()
        self._say(f"{began}  {style.strong(f'{step.name:<{_NAME}}')} {what:<{_WHAT}} {took:>8}")
        for span in step.spans:
            self._say(self._bar(span, step.ended_s - step.began_s))

    def _bar(self, span: Span, total_s: float) -> str:
        scale = _BAR / total_s if total_s else 0
        before = min(_BAR - 1, int(span.began_s * scale))
        length = max(1, min(_BAR - before, round(span.seconds * scale)))
        glyph = "━" if self._style.unicode else "="
        bar = " " * before + self._style.paint("36", glyph * length)
        rest = " " * (_BAR - before - length)
        name = self._style.dim(f"{span.phase:<{_NAME - 1}}")
        told = f"{duration(span.seconds):>8}  {printable(span.detail)}"
        return f"{'':12}{name}{bar}{rest} {told}".rstrip()

    def outcome(self, outcome: Outcome) -> None:
        """Show the comparison and the verdict."""
        self._clear()
        if outcome.proofs:
            self._say("\n  The same moment in the life of each process, before and after:\n")
        kinds = list(KINDS)
        proofs = sorted(outcome.proofs, key=lambda p: (*_moment(p), kinds.index(p.kind)))
        for (pid, generation), mine in groupby(proofs, _moment):
            told = "   ".join(self._proof(proof) for proof in mine)
            self._say(f"    process {pid:<4} step {generation:<5} {told}")
        self._say("")
        for line in verdict(outcome):
            paint = self._style.good if outcome.passed else self._style.bad
            self._say(f"  {paint(printable(line))}")
        self._say("")

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

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _moment(proof: Proof) -> tuple[int, int]:
    return proof.pid, proof.generation


def verdict(outcome: Outcome) -> list[str]:
    """Return the last words: what came back, or what did not."""
    if outcome.passed:
        kinds = {"GPU memory": ON_GPU, "CPU memory": ("cpu",)}
        parts = [f"{size(outcome.total_bytes(*k))} of {name}" for name, k in kinds.items()]
        files = sum(1 for proof in outcome.proofs if proof.kind == "file")
        everything = f"{', '.join(parts)} and {files} files"
        lines = [
            f"Everything came back, byte for byte: {everything}.",
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


def for_terminal(*, story: bool, as_json: bool, simulated: bool) -> Silent | Plain | Story:
    """Choose how to tell it on standard output."""
    if as_json:
        return Silent(sys.stdout)
    if not story:
        return Plain(sys.stdout)
    teller = Story(sys.stdout)
    teller.title(simulated=simulated)
    return teller
