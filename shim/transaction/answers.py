"""What an examination says where nothing is refused and nothing is warned of."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from shim.cuda.group import Mover
from shim.cuda.table import label
from shim.host import cgroup
from shim.host.sizes import size
from shim.host.text import first_few
from shim.image.named import Fingerprint
from shim.model import EngineName
from shim.oci.app_hooks import AppHookKind
from shim.runsc.probe import UNVERSIONED
from shim.transaction import preflight, questions
from shim.transaction.hook_calls import HookCalls
from shim.transaction.preflight import Disk
from shim.transaction.questions import Question
from shim.transaction.stage_choice import Choice
from shim.transaction.survey import Findings
from shim.transaction.target import CheckpointTarget

NONE = "none"
# In the order of a report: what to correct first comes first.
ORDER = (
    questions.STATE,
    questions.CONTAINERS,
    questions.RUNSC,
    questions.SPEC,
    questions.NETWORK,
    questions.VOLUMES,
    questions.FILES,
    questions.EXECS,
    questions.CONNECTIONS,
    questions.PROCESSES,
    questions.DEVICES,
    questions.ENGINE,
    questions.MEMORY,
    questions.DISK,
    questions.STAGE,
    questions.HOOKS,
    questions.ELSEWHERE,
)


def hooks(target: CheckpointTarget) -> str:
    """Name the hooks of a sandbox, each with when it runs and in which container.

    Raises:
        HookFailed: it is unclear in which container one is to run.
    """
    calls = HookCalls(target)
    found = [
        f"{kind}: {call.action} in {call.container.shown_name}, at most {call.timeout_s:g} s"
        for kind in AppHookKind
        for call in calls.of(kind)
    ]
    return ", ".join(found) or NONE


class Answers:
    """The texts of one sandbox; without findings of its survey there are few."""

    def __init__(self, target: CheckpointTarget, found: Findings | None, disk: Disk | None) -> None:
        self._target = target
        self._found = found
        self._disk = disk

    def well(
        self, choice: Choice | None, fingerprint: Fingerprint
    ) -> Iterator[tuple[Question, str]]:
        """Yield a text for each question that could be answered."""
        yield questions.STATE, self._state()
        yield questions.CONTAINERS, self._containers()
        yield questions.RUNSC, "the one in use is the one that it runs"
        yield questions.SPEC, "runsc restores it"
        yield questions.NETWORK, f"runsc saves --network={self._network()}"
        yield questions.ELSEWHERE, needed(fingerprint)
        if self._found is None:
            return
        yield questions.VOLUMES, "no emptyDir of a pod is left out of the image"
        yield questions.FILES, "none that another pod lacks"
        yield questions.EXECS, NONE
        yield questions.CONNECTIONS, "none that leaves the sandbox"
        yield from self._gpu(self._found)
        if self._disk is not None:
            yield questions.DISK, self._image(self._found, self._disk)
        if choice is not None:
            yield questions.STAGE, f"{choice.stage}: {choice.reason}"

    def _state(self) -> str:
        if self._target.journal.entry.from_park:
            return "parked"
        return "paused" if self._target.paused_ids else "running"

    def _network(self) -> str:
        return self._target.flags.get("network") or "sandbox"

    def _containers(self) -> str:
        others = [one.ref.id for one in self._target.members]
        return f"saved with {first_few(others)}" if others else "alone in its sandbox"

    def _gpu(self, found: Findings) -> Iterator[tuple[Question, str]]:
        if not self._target.with_gpu:
            yield questions.PROCESSES, "none: the task has no GPU"
            return
        yield questions.DEVICES, "each process that has one open can be saved"
        yield questions.MEMORY, self._memory(found)
        if found.steps is None:
            yield questions.PROCESSES, "none: nothing is frozen"
            return
        group = found.steps.processes
        states = dict(chain.from_iterable(_states(mover) for mover in group.movers))
        named = [f"{label(one)} {states.get((one.container, one.pid), '')}" for one in group.known]
        yield questions.PROCESSES, first_few([text.strip() for text in named])
        yield questions.ENGINE, str(found.steps.engine.name or EngineName.PHASED)

    def _memory(self, found: Findings) -> str:
        if not found.device_bytes:
            return "no GPU memory is in use"
        own = cgroup.find(self._target.sandbox.pid)
        left = cgroup.free_bytes(own) if own else None
        limit = "" if left is None else f", whose memory limit leaves {size(left)}"
        free = size(preflight.available_bytes())
        return f"{size(found.device_bytes)} go into the sandbox{limit}; the host has {free}"

    @staticmethod
    def _image(found: Findings, disk: Disk) -> str:
        return f"at most {size(found.image_bytes)}; {disk.folder} has {size(disk.free_bytes)} free"


def needed(fingerprint: Fingerprint) -> str:
    """Say what a host must have for a restore of the image, by its fingerprint."""
    parts = fingerprint.parts
    gpus = [f"{count} {model}" for model, count in (parts.get("GPUs") or {}).items()]
    driver = [f"driver {text}" for text in (parts.get("NVIDIA driver"),) if text and gpus]
    cpu = f"{parts.get('architecture')} with {len(parts.get('CPU') or ())} CPU features"
    build = str(parts.get("runsc"))
    runsc = "this build of runsc" if build.startswith(UNVERSIONED) else f"runsc {build}"
    needs = ", ".join([runsc, cpu, *driver, *gpus])
    return f"{needs}; fingerprint {fingerprint.key}"


def _states(mover: Mover) -> Iterator[tuple[tuple[str, int], str]]:
    table = mover.table
    for pid, state in table.states.items():
        yield (table.container, pid), str(state)
