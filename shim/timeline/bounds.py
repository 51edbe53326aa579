"""What bounds each phase of an operation, and whose time it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shim.host.sizes import size
from shim.model import EngineName, Phase, Span, Speeds, Timeline
from shim.timeline.rows import covered, inside, phases, segments
from shim.timeline.style import duration

# Between these parts of a speed, that is what bounds a phase.
_NEAR = (0.7, 1.4)
_HOOKS = frozenset({Phase.PRE_FREEZE, Phase.POST_THAW, Phase.POST_RESTORE})
_READING = frozenset({Phase.SEAL, Phase.VERIFY})
_OF_IMAGE = frozenset({Phase.SAVE, Phase.SEAL, Phase.LOAD, Phase.VERIFY})
_OF_GPU = frozenset({Phase.FREEZE, Phase.THAW})
# A phase shorter than this, and than this part of all, needs no explanation.
_NOTICEABLE_S = 0.005
_NOTICEABLE_PART = 0.01
_GB, _MB = 1e9, 1e6


@dataclass(frozen=True)
class Shares:
    """Whose time it was, in seconds; the parts add up to `total_s`.

    `commands` is that of runsc and other programs, with the CUDA calls in them, which took `cuda_s`
    as far as they were measured. `files_s` is what hashing, syncing and reading of the image took,
    `hooks_s` that of the container's hooks, and `own_s` the rest.
    """

    total_s: float
    commands_s: float
    cuda_s: float
    files_s: float
    hooks_s: float
    own_s: float


@dataclass(frozen=True)
class Bound:
    """What bounds one phase, as a sentence; `bytes_per_s` is None if bytes are not known."""

    phase: str
    seconds: float
    text: str
    bytes_per_s: float | None = None


def shares(timeline: Timeline) -> Shares:
    """Return whose time it was."""
    commands = segments(span for span in timeline.spans if span.name)
    cuda = segments(span for span in timeline.spans if span.pid)
    programs = (*commands, *cuda)
    commands_s = covered(programs)
    files_s = _beyond(timeline, _READING, programs)
    hooks_s = _beyond(timeline, _HOOKS, programs)
    return Shares(
        total_s=timeline.total_s,
        commands_s=commands_s,
        cuda_s=covered(cuda),
        files_s=files_s,
        hooks_s=hooks_s,
        own_s=max(timeline.total_s - commands_s - files_s - hooks_s, 0.0),
    )


def _beyond(
    timeline: Timeline, phases: frozenset[Phase], programs: tuple[tuple[float, float], ...]
) -> float:
    """Return how long some phases lasted while no program ran."""
    mine = segments(span for span in timeline.spans if span.is_phase and span.phase in phases)
    return max(covered((*mine, *programs)) - covered(programs), 0.0)


def bounds(timeline: Timeline, speeds: Speeds | None) -> list[Bound]:
    """Return what bounds each phase that is long enough to matter, in order."""
    least_s = max(_NOTICEABLE_S, timeline.total_s * _NOTICEABLE_PART)
    parts = [_Part(timeline, phase, spans) for phase, spans in phases(timeline).items()]
    return [_bound(part, speeds or Speeds()) for part in parts if part.seconds >= least_s]


class _Part:
    """A phase, with what happened in it."""

    def __init__(self, timeline: Timeline, phase: Phase, spans: Sequence[Span]) -> None:
        self.phase = phase
        self.seconds = covered(segments(spans))
        self.builtin = timeline.engine == EngineName.BUILTIN
        # runsc takes these steps within its save, and the phase only checks states.
        self.only_checks = self.builtin and (
            phase is Phase.FREEZE or (phase is Phase.THAW and timeline.operation == "checkpoint")
        )
        within = inside(timeline, spans)
        self.commands = [one for one in within if one.name]
        self.cuda = [one for one in within if one.pid]
        self.programs_s = min(covered(segments(within)), self.seconds)
        self.bytes = sum(span.bytes for span in spans)
        # What a phase that failed has moved is not known.
        if timeline.error:
            return
        if not self.bytes and phase in _OF_IMAGE:
            self.bytes = timeline.size_bytes
        if not self.bytes and phase in _OF_GPU and not self.only_checks:
            self.bytes = timeline.gpu_bytes


def _bound(part: _Part, speeds: Speeds) -> Bound:
    if not part.bytes:
        return Bound(part.phase, part.seconds, _by_whom(part))
    rate = part.bytes / part.seconds
    text = f"{size(part.bytes)} at {speed(rate)}: {_against(part, rate, speeds)}"
    return Bound(part.phase, part.seconds, text, bytes_per_s=rate)


def _against(part: _Part, rate: float, speeds: Speeds) -> str:
    """Compare a rate with what the machine can do."""
    match part.phase:
        case Phase.SAVE:
            text = _disk(rate, speeds.disk_write, "this disk writes", "bound by runsc")
            more = "; lock, freeze and thaw are part of it" if part.builtin else ""
            return text + _memory(rate, speeds.copy, "a copy in memory") + more
        case Phase.LOAD:
            text = _disk(rate, speeds.disk_read, "this disk reads", "bound by runsc")
            return text + _memory(rate, speeds.fresh, "filling new memory")
        case Phase.SEAL:
            text = _disk(rate, speeds.disk_write, "this disk writes", "hash and sync")
            return text + _memory(rate, speeds.digest, "the hash")
        case Phase.VERIFY:
            if speeds.digest is not None and rate > speeds.digest * _NEAR[1]:
                return "verified before on this host, and not read again"
            text = _disk(rate, speeds.disk_read, "this disk reads", "hash")
            return text + _memory(rate, speeds.digest, "the hash")
        case Phase.FREEZE:
            return _by_whom(part) + _memory(rate, speeds.fresh, "filling new memory")
        case _:
            return _by_whom(part) + _memory(rate, speeds.copy, "a copy in memory")


def _disk(rate: float, can: float | None, what: str, otherwise: str) -> str:
    """Say whether the disk bounds a rate; if the disk can do more, `otherwise` does."""
    if can is None:
        return "the disk was not measured"
    part = rate / can
    if part > _NEAR[1]:
        by = "through the page cache"
    else:
        by = "bound by the disk" if part >= _NEAR[0] else otherwise
    return f"{by}, {part:.0%} of what {what} ({speed(can)})"


def _memory(rate: float, can: float | None, what: str) -> str:
    return "" if can is None else f", {rate / can:.0%} of {what} ({speed(can)})"


def _by_whom(part: _Part) -> str:
    """Say who used the time of a phase."""
    if part.phase in _HOOKS:
        return "the hooks of the container"
    if not part.commands and not part.cuda:
        return "the task exits" if part.phase is Phase.STOP else "Cryoshim itself"
    said = []
    if part.cuda:
        longest = max(part.cuda, key=lambda one: one.duration_s)
        where = f" of {longest.container}" if longest.container else ""
        count = len({(one.container, one.pid) for one in part.cuda})
        said.append(
            f"CUDA calls {covered(segments(part.cuda)) / part.seconds:.0%}, "
            f"{_counted(count, 'process', 'processes')}, longest {longest.phase} "
            f"{duration(longest.duration_s)} (process {longest.pid}{where})"
        )
    if part.commands:
        count = len(part.commands)
        used = part.programs_s / part.seconds
        said.append(f"{_counted(count, 'command', 'commands')} {used:.0%}")
    return "; ".join(said)


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def speed(rate: float) -> str:
    """Format bytes per second, in the decimal units in which speeds are usually given."""
    return f"{rate / _GB:.1f} GB/s" if rate >= _GB else f"{rate / _MB:.0f} MB/s"
