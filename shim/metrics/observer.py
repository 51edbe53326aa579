"""What is counted as it happens: requests, operations and their phases, failures and bytes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from shim import errors
from shim.api.cryo.v1 import cryo_pb2
from shim.model import Phase, TaskRef, Timeline
from shim.service.answered import Answered

# From a call that reads a record to a checkpoint of hundreds of GiB.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
_BYTES_PER_SECOND = (5e7, 1e8, 2.5e8, 5e8, 1e9, 2e9, 4e9, 8e9, 16e9)
# As long as its task.
_ENDLESS = frozenset({"Wait", "FollowEvents"})
_TRANSFERS = {"PushImage": "push", "PullImage": "pull"}
_OPERATIONS = ("checkpoint", "restore", "park", "unpark")
# The phase that moves the bytes of an image.
_MOVES = {"checkpoint": Phase.SAVE, "restore": Phase.LOAD}


class Observer:
    """Counts into one registry; what it is called with is counted once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Histogram(
            "cryo_request_duration_seconds",
            "Time to answer a request, without Wait.",
            ("method",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._request_failures = Counter(
            "cryo_request_failures",
            "Requests that returned an error, by its class.",
            ("method", "error"),
            registry=registry,
        )
        self._operations = Histogram(
            "cryo_operation_duration_seconds",
            "Time of a checkpoint, restore, park or unpark, also of one that failed.",
            ("operation",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._phases = Histogram(
            "cryo_phase_duration_seconds",
            "Time of a phase of an operation.",
            ("operation", "phase"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._frozen = Histogram(
            "cryo_frozen_duration_seconds",
            "Time that a task stood still in an operation that succeeded.",
            ("operation",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._failures = Counter(
            "cryo_operation_failures",
            "Operations that failed and were rolled back, by the class of the error.",
            ("operation", "error"),
            registry=registry,
        )
        self._bytes = Counter(
            "cryo_image_bytes",
            "Size of the images that were saved (checkpoint) or loaded (restore).",
            ("operation",),
            registry=registry,
        )
        self._throughput = Histogram(
            "cryo_image_throughput_bytes_per_second",
            "Size of an image by the time of its phase save (checkpoint) or load (restore).",
            ("operation",),
            buckets=_BYTES_PER_SECOND,
            registry=registry,
        )
        self._transferred = Counter(
            "cryo_transferred_bytes",
            "Bytes that were pushed to or pulled from other places.",
            ("direction",),
            registry=registry,
        )
        # An alert sees an increase only of a series that was there before its first failure.
        for operation in _OPERATIONS:
            for kind in _classes():
                self._failures.labels(operation, kind)

    def answered(self, one: Answered) -> None:
        """Count a request."""
        if one.method not in _ENDLESS:
            self._requests.labels(one.method).observe(one.took_s)
        if one.error:
            self._request_failures.labels(one.method, one.error).inc()
        elif one.method in _TRANSFERS:
            self._transferred.labels(_TRANSFERS[one.method]).inc(_moved(one.response))

    def timeline(self, ref: TaskRef, one: Timeline) -> None:
        """Count an operation on a task; ids of tasks are no labels."""
        del ref
        self.operation(one)

    def operation(self, one: Timeline) -> None:
        """Count an operation."""
        self._operations.labels(one.operation).observe(one.total_s)
        seconds: dict[Phase, float] = {}
        for span in one.spans:
            if span.is_phase:
                seconds[span.phase] = seconds.get(span.phase, 0.0) + span.duration_s
        for phase, spent_s in seconds.items():
            self._phases.labels(one.operation, phase.value).observe(spent_s)
        if one.error:
            self._failures.labels(one.operation, one.error_kind or "CryoError").inc()
            return
        if one.frozen_s:
            self._frozen.labels(one.operation).observe(one.frozen_s)
        move = _MOVES.get(one.operation)
        if move is not None and one.size_bytes:
            self._bytes.labels(one.operation).inc(one.size_bytes)
            if moved_s := seconds.get(move):
                self._throughput.labels(one.operation).observe(one.size_bytes / moved_s)


def _classes() -> list[str]:
    """Return the names of all classes of errors."""
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    return sorted(one.__name__ for one in kinds if issubclass(one, errors.CryoError))


def _moved(response: bytes) -> int:
    """Return the bytes that a push or pull has moved, by its last update."""
    return cryo_pb2.TransferUpdate.FromString(response).result.bytes_moved
