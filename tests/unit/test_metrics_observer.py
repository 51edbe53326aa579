"""What the metrics count: requests, operations, phases, failures by class, and bytes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from shim.api.cryo.v1 import cryo_pb2
from shim.metrics.observer import Observer
from shim.model import Phase, Span, Timeline, utcnow
from shim.service.answered import Answered

SAVED = Timeline(
    operation="checkpoint",
    task="a",
    began_at=utcnow(),
    total_s=4.0,
    spans=(
        Span(phase=Phase.FREEZE, duration_s=0.5),
        Span(phase=Phase.FREEZE, name="runsc exec", duration_s=0.4),
        Span(phase=Phase.SAVE, start_s=0.5, duration_s=2.0),
        Span(phase=Phase.FREEZE, start_s=2.5, duration_s=0.25),
    ),
    size_bytes=2 << 30,
    frozen_s=3.0,
)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Make a registry."""
    return CollectorRegistry()


@pytest.fixture
def observer(registry: CollectorRegistry) -> Observer:
    """Make what counts into it."""
    return Observer(registry)


def test_a_checkpoint(registry: CollectorRegistry, observer: Observer) -> None:
    """Its time, that of each phase once, without commands, its bytes and their throughput."""
    observer.operation(SAVED)

    value = registry.get_sample_value
    of = {"operation": "checkpoint"}
    assert value("cryo_operation_duration_seconds_sum", of) == 4.0
    assert value("cryo_phase_duration_seconds_sum", {**of, "phase": "freeze"}) == 0.75
    assert value("cryo_phase_duration_seconds_count", {**of, "phase": "freeze"}) == 1
    assert value("cryo_phase_duration_seconds_sum", {**of, "phase": "save"}) == 2.0
    assert value("cryo_image_bytes_total", of) == 2 << 30
    assert value("cryo_image_throughput_bytes_per_second_sum", of) == 1 << 30
    assert value("cryo_frozen_duration_seconds_sum", of) == 3.0
    assert value("cryo_operation_failures_total", {**of, "error": "CudaError"}) == 0


def test_a_failure(registry: CollectorRegistry, observer: Observer) -> None:
    """It counts by its class, with its phases, and moves no bytes."""
    failed = replace(SAVED, error="it is lost", error_kind="CudaError")
    observer.operation(failed)
    observer.operation(replace(failed, error_kind=""))  # of a shim of an earlier version

    value = registry.get_sample_value
    of = {"operation": "checkpoint"}
    assert value("cryo_operation_failures_total", {**of, "error": "CudaError"}) == 1
    assert value("cryo_operation_failures_total", {**of, "error": "CryoError"}) == 1
    assert value("cryo_operation_duration_seconds_count", of) == 2
    assert value("cryo_phase_duration_seconds_count", {**of, "phase": "save"}) == 2
    assert value("cryo_image_bytes_total", of) is None
    assert value("cryo_frozen_duration_seconds_count", of) is None


def test_requests(registry: CollectorRegistry, observer: Observer) -> None:
    """A Wait has no time: it takes as long as its task; its failure counts."""
    observer.answered(Answered(service="s", method="State", took_s=0.25))
    observer.answered(Answered(service="s", method="Wait", took_s=9.0, error="NotFound"))

    value = registry.get_sample_value
    assert value("cryo_request_duration_seconds_sum", {"method": "State"}) == 0.25
    assert value("cryo_request_duration_seconds_count", {"method": "Wait"}) is None
    assert value("cryo_request_failures_total", {"method": "Wait", "error": "NotFound"}) == 1


def test_transfers(registry: CollectorRegistry, observer: Observer) -> None:
    """The bytes that moved, of pushes and pulls that succeeded."""
    update = cryo_pb2.TransferUpdate(result=cryo_pb2.TransferResult(bytes_moved=7))
    for method, error in (("PushImage", ""), ("PullImage", ""), ("PullImage", "Unavailable")):
        response = b"" if error else update.SerializeToString()
        one = Answered(service="s", method=method, took_s=1.0, error=error, response=response)
        observer.answered(one)

    value = registry.get_sample_value
    assert value("cryo_transferred_bytes_total", {"direction": "push"}) == 7
    assert value("cryo_transferred_bytes_total", {"direction": "pull"}) == 7
