"""The status that the workload reports, as plain values, and the expected digests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from shim.simgpu.guest import names, pattern

WEIGHTS = names.WEIGHTS


@dataclass(frozen=True)
class ProcessStatus:
    """One worker; verify sets `digests`, and `stuck` if the worker made no step."""

    pid: int
    index: int
    state: str
    generation: int
    losses: tuple[str, ...]
    misuse: tuple[str, ...]
    stores: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    stuck: bool = False
    starting: bool = False
    held: bool = False
    stop_at: int = 0

    @property
    def intact(self) -> bool:
        """Whether nothing was lost, and all digests are those expected of the generation."""
        return not self.losses and not self.starting and all(self._as_expected())

    def expected(self, kind: str) -> str:
        """Compute the digest that a store must have at this generation."""
        store = self.stores[kind]
        if kind == WEIGHTS:
            return pattern.Weights(store["key"], store["bytes"]).expected_digest()
        return pattern.expected_digest(store["key"], store["bytes"], self.generation)

    def _as_expected(self) -> list[bool]:
        return [found == self.expected(kind) for kind, found in self.digests.items()]


@dataclass(frozen=True)
class Status:
    """A whole workload."""

    node: str
    processes: tuple[ProcessStatus, ...]
    holders: tuple[int, ...]
    ended: tuple[dict[str, int], ...]
    resident_ok: bool

    @property
    def intact(self) -> bool:
        """Whether no process lost data, is stuck, or has exited unexpectedly."""
        fine = all(p.intact and not p.stuck for p in self.processes)
        return fine and self.resident_ok and not self.ended

    @property
    def ready(self) -> bool:
        """Whether every process has made its first steps."""
        return all(p.generation > 0 and not p.starting for p in self.processes)

    @property
    def pids(self) -> list[int]:
        """The workers' pids inside the container."""
        return [p.pid for p in self.processes]

    @property
    def losses(self) -> list[str]:
        """Every loss, with its process."""
        return [f"process {p.pid}: {loss}" for p in self.processes for loss in p.losses] + [
            f"process {e['pid']} ended with {e['status']}" for e in self.ended
        ]

    @property
    def generations(self) -> dict[int, int]:
        """The generation of each process, by pid."""
        return {p.pid: p.generation for p in self.processes}


def _process(raw: dict[str, Any]) -> ProcessStatus:
    return ProcessStatus(
        pid=raw["pid"],
        index=raw.get("index", -1),
        state=raw.get("state", ""),
        generation=raw.get("generation", 0),
        losses=tuple(raw.get("losses", ())),
        misuse=tuple(raw.get("misuse", ())),
        stores=raw.get("stores", {}),
        digests=raw.get("digests", {}),
        stuck=bool(raw.get("stuck")),
        starting=bool(raw.get("starting")),
        held=bool(raw.get("held")),
        stop_at=raw.get("stop_at", 0),
    )


def parse(text: str) -> Status:
    """Parse a reply of the workload's supervisor."""
    raw = json.loads(text)
    return Status(
        node=raw["node"],
        processes=tuple(_process(worker) for worker in raw["workers"]),
        holders=tuple(raw["holders"]),
        ended=tuple(raw["ended"]),
        resident_ok=bool(raw["resident_ok"]),
    )
