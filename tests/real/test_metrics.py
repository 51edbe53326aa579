"""Metrics of real operations: phases, bytes and failures, as a scrape of the sidecar has them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shim.errors import CudaError
from shim.simgpu.simulation import Fault, Kind
from tests.builds import RunscBuild
from tests.real.helpers_rig import Rig, machine_with, refused

pytestmark = pytest.mark.timeout(120)
_WAIT_S = 20.0


class Scraped:
    """The samples of one scrape."""

    def __init__(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_WAIT_S)
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            data = b"".join(iter(lambda: client.recv(1 << 16), b""))
        head, _, body = data.decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 OK\r\n"), head
        self._samples = [
            sample for family in text_string_to_metric_families(body) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """Return the value of a sample; 0 if there is none."""
        found = [one.value for one in self._samples if (one.name, one.labels) == (name, labels)]
        assert len(found) < 2
        return found[0] if found else 0.0

    def phases(self, operation: str) -> set[str]:
        """Return the phases of an operation that were counted."""
        name = "cryo_phase_duration_seconds_count"
        labels = [one.labels for one in self._samples if one.name == name]
        return {one["phase"] for one in labels if one["operation"] == operation}


def scrape(rig: Rig) -> Scraped:
    """Scrape the metrics of the sidecar."""
    return Scraped(rig.sim.folder / "run" / "metrics.sock")


def test_a_checkpoint_a_restore_and_a_failure(runsc_new: RunscBuild) -> None:
    """Phases, bytes, throughput, and the failure by its class, with its rollback."""
    with machine_with(runsc_new) as rig:
        rig.sim.stop_sidecar()
        rig.sim.start_sidecar(metrics={"address": f"unix:{rig.sim.folder}/run/metrics.sock"})
        rig.workload("job")
        before = scrape(rig)
        made = rig.checkpoint("job", "phased")
        rig.restore("copy", made.image_path)
        rig.sim.faults(Fault(action="checkpoint", kind=Kind.FAIL))
        refused(CudaError, lambda: rig.checkpoint("job", "phased"))
        rig.sim.faults()
        found = scrape(rig)
        images = rig.client.images()
        rig.clear()

    assert before.value("cryo_operation_duration_seconds_count", operation="checkpoint") == 0
    assert found.phases("checkpoint") >= {"preflight", "freeze", "save", "thaw", "seal", "commit"}
    assert found.phases("checkpoint") >= {"rollback"}
    assert found.phases("restore") >= {"verify", "load", "thaw"}
    for operation, phase in (("checkpoint", "save"), ("restore", "load")):
        value, of = found.value, {"operation": operation}
        spent_s = value("cryo_phase_duration_seconds_sum", **of, phase=phase)
        throughput = value("cryo_image_throughput_bytes_per_second_sum", **of)
        assert value("cryo_image_bytes_total", **of) == made.size_bytes
        assert throughput * spent_s >= made.size_bytes * 0.99
    failed = {"error": "CudaError"}
    value, of = found.value, {"operation": "checkpoint"}
    assert value("cryo_operation_duration_seconds_count", **of) == 2
    assert value("cryo_operation_failures_total", **of, **failed) == 1
    assert value("cryo_request_failures_total", method="Checkpoint", **failed) == 1
    assert value("cryo_frozen_duration_seconds_sum", **of) == pytest.approx(made.frozen_s)
    assert found.value("cryo_tasks", owner="sidecar", namespace="default", state="running") == 2
    assert found.value("cryo_images") == len(images)
    assert found.value("cryo_images_size_bytes") == sum(one.size_bytes for one in images)
    assert found.value("cryo_open_journals", operation="checkpoint") == 0
