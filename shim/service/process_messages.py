"""Converts the messages about processes of a task to plain values and back."""

from __future__ import annotations

from shim.api.cryo.v1 import cryo_pb2
from shim.host.text import printable
from shim.model import GuestProcessView, ProcessList

_TEXT_MAX = 4096
# Of all arguments of one process.
_ARGS_MAX = 16 << 10


def to_list(listed: ProcessList) -> cryo_pb2.ListProcessesResponse:
    """Encode the processes of a task; what a container chose as its text is bounded."""
    return cryo_pb2.ListProcessesResponse(
        processes=map(_to_process, listed.processes),
        warnings=[printable(text, _TEXT_MAX) for text in listed.warnings],
    )


def _to_process(one: GuestProcessView) -> cryo_pb2.GuestProcess:
    return cryo_pb2.GuestProcess(
        pid=one.pid,
        parent=one.parent,
        name=printable(one.name, _TEXT_MAX),
        args=_bounded(one.args),
        uid=one.uid,
        memory_bytes=one.memory_bytes,
        gpu_devices=one.gpu_devices,
        cuda_state=one.cuda_state,
        gpu_bytes=one.gpu_bytes,
    )


def _bounded(args: tuple[str, ...]) -> list[str]:
    left, kept = _ARGS_MAX, []
    for arg in args:
        if left <= 0:
            break
        kept.append(printable(arg, left))
        left -= len(kept[-1]) + 1
    return kept


def from_list(message: cryo_pb2.ListProcessesResponse) -> ProcessList:
    """Decode the processes of a task."""
    return ProcessList(
        processes=tuple(map(_from_process, message.processes)), warnings=tuple(message.warnings)
    )


def _from_process(message: cryo_pb2.GuestProcess) -> GuestProcessView:
    return GuestProcessView(
        pid=message.pid,
        parent=message.parent if message.HasField("parent") else None,
        name=message.name,
        args=tuple(message.args),
        uid=message.uid if message.HasField("uid") else None,
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        gpu_devices=tuple(message.gpu_devices),
        cuda_state=message.cuda_state if message.HasField("cuda_state") else None,
        gpu_bytes=message.gpu_bytes if message.HasField("gpu_bytes") else None,
    )
