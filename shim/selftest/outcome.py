"""The result of a selftest, as values that can be printed or attached to a bug report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from shim import __version__
from shim.model import EngineName, Phase
from shim.simgpu.status import WEIGHTS, Status

FORMAT = 1
_MOVING = ("freeze", "save", "load", "thaw")
ON_GPU = ("gpu", WEIGHTS)
KINDS = {"gpu": "GPU memory", WEIGHTS: "GPU weights", "cpu": "CPU memory", "file": "file"}


@dataclass(frozen=True)
class Span:
    """A phase of a checkpoint or restore, in seconds since the start of the operation."""

    phase: str
    began_s: float
    ended_s: float
    detail: str = ""

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.ended_s - self.began_s


@dataclass(frozen=True)
class Step:
    """One step of the selftest, in seconds since the start of the selftest."""

    name: str
    began_s: float
    ended_s: float
    detail: str = ""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Proof:
    """One piece of a process's memory: three digests at the same generation.

    `before` is of the original, `after` of the restored copy when it reached the same generation,
    `computed` of the known pattern.
    """

    pid: int
    kind: str
    size_bytes: int
    generation: int
    before: str
    after: str
    computed: str

    @property
    def same(self) -> bool:
        """Whether all three are equal."""
        return self.before == self.after == self.computed


@dataclass
class Outcome:
    """The result of one selftest."""

    simulated: bool = True
    gpu: str = ""
    host: dict[str, str] = field(default_factory=dict)
    engine: str = ""
    image_path: str = ""
    image_bytes: int = 0
    image_digest: str = ""
    steps: list[Step] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    error: str = ""
    remedy: str = ""
    log: str = ""

    @property
    def passed(self) -> bool:
        """Whether all memory was restored intact."""
        fine = bool(self.proofs) and all(proof.same for proof in self.proofs)
        return fine and not self.losses and not self.error

    def total_bytes(self, *kinds: str) -> int:
        """Return the number of bytes of some kinds that were compared."""
        return sum(proof.size_bytes for proof in self.proofs if proof.kind in kinds)

    def rates(self) -> list[dict[str, Any]]:
        """Return the throughput of each phase that moves GPU memory: bytes, seconds, GB/s.

        With the built-in engine the save includes the freeze and the thaw.
        """
        moved = {(p.pid, p.kind): p.size_bytes for p in self.proofs if p.kind in ON_GPU}
        total = sum(moved.values())
        return [
            {
                "step": step.name,
                "phase": span.phase,
                "gpu_bytes": total,
                "seconds": round(span.seconds, 6),
                "gb_per_s": round(total / span.seconds / 1e9, 3) if span.seconds else 0.0,
            }
            for step in self.steps
            for span in step.spans
            if span.phase in _MOVING and not self._is_in_save(step, span)
        ]

    def _is_in_save(self, step: Step, span: Span) -> bool:
        """Whether the phase only checks states, because runsc performs it within the save."""
        only_checks = step.name == "checkpoint" and span.phase in {Phase.FREEZE, Phase.THAW}
        return only_checks and self.engine == EngineName.BUILTIN

    def as_json(self) -> dict[str, Any]:
        """Return the report."""
        proofs = [{**asdict(proof), "same": proof.same} for proof in self.proofs]
        head = {"format": FORMAT, "cryo_version": __version__, "passed": self.passed}
        return {**head, **asdict(self), "proofs": proofs, "rates": self.rates()}


def compare(before: Status, after: Status) -> list[Proof]:
    """Compare each process's memory with its restored copy's at the same generation."""
    later = {process.pid: process for process in after.processes}
    proofs = []
    for old in before.processes:
        new = later.get(old.pid)
        for kind, store in old.stores.items():
            reached = new is not None and new.generation == old.generation
            proofs.append(
                Proof(
                    pid=old.pid,
                    kind=kind,
                    size_bytes=store["bytes"],
                    generation=old.generation,
                    before=old.digests.get(kind, ""),
                    after=new.digests.get(kind, "") if new is not None and reached else "",
                    computed=old.expected(kind),
                )
            )
    return proofs
