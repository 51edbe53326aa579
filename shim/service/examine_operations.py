"""cryo.v1: whether a task can be checkpointed."""

from __future__ import annotations

from shim.api.cryo.v1 import cryo_pb2
from shim.finding import Area, Finding, Level
from shim.host.text import printable
from shim.model import TaskRef
from shim.service.cryo_table import CRYO
from shim.service.operation import Call, Incoming

# Names of processes and texts of runsc come from containers.
_TEXT_MAX = 4096


@CRYO.add(cryo_pb2.ExamineTaskRequest, cryo_pb2.ExamineTaskResponse, in_shims=True)
async def ExamineTask(
    call: Incoming, request: cryo_pb2.ExamineTaskRequest
) -> cryo_pb2.ExamineTaskResponse:
    """Examine whether a task can be checkpointed."""
    del request
    found = await call.service.core.examine(call.ref)
    return cryo_pb2.ExamineTaskResponse(findings=map(_to_finding, found))


def examine(ref: TaskRef) -> Call[list[Finding]]:
    """Examine whether a task can be checkpointed now, and what its image would lack.

    Each finding that is not well has its remedy. Nothing is changed or frozen.
    """
    return ExamineTask.call(
        cryo_pb2.ExamineTaskRequest(namespace=ref.namespace, id=ref.id),
        lambda answer: [_from_finding(one) for one in answer.findings],
    )


def _to_finding(one: Finding) -> cryo_pb2.Finding:
    return cryo_pb2.Finding(
        area=one.area,
        subject=one.subject,
        level=one.level,
        text=printable(one.text, _TEXT_MAX),
        remedy=printable(one.remedy, _TEXT_MAX),
    )


def _from_finding(one: cryo_pb2.Finding) -> Finding:
    """Decode a finding; a class that only newer versions have is that of a check."""
    areas = {area.value: area for area in Area}
    return Finding(
        area=areas.get(one.area, Area.CHECK),
        subject=one.subject,
        level=Level(one.level) if one.level in {*Level} else Level.WARNING,
        text=one.text,
        remedy=one.remedy,
    )
