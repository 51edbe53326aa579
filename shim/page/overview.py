"""The overview: what is under way, the tasks by namespace, and what was done last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from shim.host.sizes import size
from shim.model import ImageView, TaskView, Value
from shim.page.history import History
from shim.page.operations import Running, Step
from shim.task.state_files import OpenJournal

# The operation of a journal that a request of the sidecar may be, where their names differ.
_JOURNAL_OF = {"save name": "checkpoint"}
_FROM_JOURNAL = "from its journal: phase and processes, without bytes"
TASKS_MAX = 500


class Operation(Value):
    """An operation under way as it is shown; `source` is where that is from, if not a request."""

    running: Running
    source: str = ""


class TaskRow(Value):
    """A task as it is shown; `gpu` says which GPU processes are known."""

    view: TaskView
    state: str
    gpu: str


class TaskTable(Value):
    """The tasks by namespace; `left_out` counts those that are too many to show."""

    namespaces: dict[str, tuple[TaskRow, ...]]
    left_out: int = 0


def operations(running: Sequence[Running], journals: Iterable[OpenJournal]) -> list[Operation]:
    """Join the requests with the open journals; a journal of no request is an operation too."""
    left = {_key(one): one for one in journals if not one.is_parked}
    found = []
    for one in running:
        journal = left.pop((one.namespace, one.task, _JOURNAL_OF.get(one.name, one.name)), None)
        found.append(_joined(one, journal))
    return [*found, *(_of_journal(journal) for journal in left.values())]


def _key(one: OpenJournal) -> tuple[str, str, str]:
    return one.namespace, one.task, one.operation


def _joined(one: Running, journal: OpenJournal | None) -> Operation:
    """Take from the journal what the progress does not have."""
    if journal is None:
        return Operation(running=one)
    processes = {**one.processes, **journal.processes}
    if not one.forwarded:
        return Operation(running=replace(one, processes=processes))
    steps = (Step(phase=journal.phase, at_s=0.0),)
    joined = replace(one, phase=journal.phase, steps=steps, processes=processes, message="")
    return Operation(running=joined, source=_FROM_JOURNAL)


def _of_journal(journal: OpenJournal) -> Operation:
    running = Running(
        number=0,
        name=journal.operation,
        namespace=journal.namespace,
        task=journal.task,
        image="",
        forwarded=False,
        elapsed_s=journal.age_s,
        phase=journal.phase,
        steps=(Step(phase=journal.phase, at_s=0.0),),
        processes=journal.processes,
    )
    return Operation(running=running, source=_FROM_JOURNAL)


def task_table(
    views: Sequence[TaskView],
    journals: Iterable[OpenJournal],
    history: History,
    images: Iterable[ImageView] = (),
) -> TaskTable:
    """Group the tasks by namespace."""
    in_image = {image.path: image.processes for image in images}
    parked = {(one.namespace, one.task): one for one in journals if one.is_parked}
    shown = sorted(views, key=lambda view: (view.namespace, view.id))[:TASKS_MAX]
    namespaces: dict[str, list[TaskRow]] = {}
    for view in shown:
        key = view.namespace, view.id
        image = history.images.get(key, view.restored_from)
        row = _row(view, parked.get(key), history.gpu_processes.get(key), in_image.get(image))
        namespaces.setdefault(view.namespace, []).append(row)
    return TaskTable(
        namespaces={name: tuple(rows) for name, rows in namespaces.items()},
        left_out=len(views) - len(shown),
    )


def _row(
    view: TaskView, parked: OpenJournal | None, moved: int | None, in_image: int | None
) -> TaskRow:
    """Describe a task; `in_image` is of all containers of a pod together."""
    if parked is not None:
        gpu = f"{len(parked.processes)} frozen, {size(parked.gpu_bytes)} released"
        return TaskRow(view=view, state="parked", gpu=gpu)
    if moved:
        gpu = f"{moved}"
    elif not view.gpu:
        gpu = "none"
    else:
        gpu = f"{in_image} in its image" if in_image else "not yet known"
    return TaskRow(view=view, state=view.state.value, gpu=gpu)
