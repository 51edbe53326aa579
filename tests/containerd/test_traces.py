"""Traces of real programs: a client, a sidecar and the shim of a GPU task, by a real collector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk")
from shim.simgpu.simulation import Settings, Simulation
from tests.containerd import gpu
from tests.containerd.beside import Beside, serving
from tests.containerd.collector import Collector, Received
from tests.containerd.conftest import build_of
from tests.containerd.cryo import RUNTIME, Cryo, simulated
from tests.containerd.place import Place

pytestmark = pytest.mark.timeout(300)
CLIENT, SIDECAR, SHIM = "cryo", "cryo-sidecar", "cryo-shim"
CHECKPOINT, RESTORE = "/cryo.v1.Cryo/Checkpoint", "/cryo.v1.Cryo/Restore"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Yield a collector."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(
    collector: Collector, simulation: Simulation, gpu_place: Place, archive: Path
) -> Iterator[Cryo]:
    """Yield a containerd whose shims send spans."""
    with simulated(build_of("2.4"), simulation, gpu_place, env=collector.env) as made:
        made.import_image(archive)
        made.run("first", "true")
        yield made


@pytest.fixture(scope="module")
def beside(traced: Cryo) -> Iterator[Beside]:
    """Yield a client of a sidecar beside it; both send spans."""
    with serving(traced) as client:
        yield client


def path_to(spans: list[Received], one: Received) -> list[tuple[str, str]]:
    """Return the services and names of a span and all above it, the oldest first."""
    by_id = {each.id: each for each in spans}
    found: list[tuple[str, str]] = []
    at: Received | None = one
    while at is not None:
        found.insert(0, (at.service, at.name))
        assert at.parent == "" or at.parent in by_id, f"{at} has no parent here"
        at = by_id.get(at.parent)
    return found


def only(spans: list[Received], name: str, service: str) -> Received:
    """Return the only span of a name."""
    (one,) = [each for each in spans if (each.name, each.service) == (name, service)]
    return one


def test_one_trace_of_a_checkpoint(
    traced: Cryo, beside: Beside, collector: Collector, simulation: Simulation
) -> None:
    """From the client by the sidecar to the shim, its runsc and the CUDA steps of each process."""
    name, guest = traced.fresh("job"), gpu.CtrGuest(traced)
    path = traced.folder / "images" / traced.fresh("traced")
    with traced.removing(name):
        two = Settings(processes=2)
        gpu.start_on_image(simulation, traced, name, runtime=RUNTIME, settings=two)
        status = simulation.until_ready(guest, name)
        beside("tasks", "checkpoint", "--engine", "phased", "--image-path", str(path), name)
    collector.until("checkpoint", SHIM)
    collector.until(CHECKPOINT, CLIENT)
    collector.until(CHECKPOINT, SIDECAR)

    trace = only(collector.spans, CHECKPOINT, CLIENT).trace
    spans = [one for one in collector.spans if one.trace == trace]
    operation = only(spans, "checkpoint", SHIM)
    above = [(CLIENT, CHECKPOINT), (SIDECAR, CHECKPOINT), (SHIM, CHECKPOINT), (SHIM, "checkpoint")]
    assert path_to(spans, operation) == above
    assert operation.attributes["cryo.task"] == name
    save = only(spans, "runsc checkpoint", SHIM)
    assert path_to(spans, save) == [*above, (SHIM, "save"), (SHIM, "runsc checkpoint")]
    for pid in status.pids:
        for step in ("lock", "freeze"):
            one = only(spans, f"{step} process {pid}", SHIM)
            assert path_to(spans, one)[:4] == above
    by_id = {one.id: one for one in spans}
    for one in spans:
        if one.parent and one.service == by_id[one.parent].service == SHIM:
            outer = by_id[one.parent]
            # What is recorded is rounded to microseconds.
            assert outer.start_ns - 5000 <= one.start_ns <= one.end_ns <= outer.end_ns + 5000, one


def test_one_trace_of_a_restore(traced: Cryo, beside: Beside, collector: Collector) -> None:
    """In the sidecar with its runsc; one that is refused is an error of client and sidecar."""
    path, again = traced.folder / "images" / traced.fresh("traced"), traced.fresh("again")
    with traced.container("sleep", "1000") as name:
        beside("tasks", "checkpoint", "--image-path", str(path), name)
        beside("tasks", "restore", "--image-path", str(path), again)
        refused = beside("tasks", "restore", "--image-path", str(path), again, check=False)
        beside("tasks", "kill", "--signal", "KILL", again)
        beside("tasks", "wait", again)
        beside("tasks", "delete", again)
    collector.until("restore", SIDECAR)
    collector.until(RESTORE, CLIENT, 2)
    collector.until(RESTORE, SIDECAR, 2)

    spans = collector.spans
    restore = only(spans, "restore", SIDECAR)
    assert path_to(spans, restore) == [(CLIENT, RESTORE), (SIDECAR, RESTORE), (SIDECAR, "restore")]
    ran = only([one for one in spans if one.trace == restore.trace], "runsc restore", SIDECAR)
    assert path_to(spans, ran)[2:] == [
        (SIDECAR, "restore"),
        (SIDECAR, "load"),
        (SIDECAR, "runsc restore"),
    ]
    assert refused.status != 0
    failed = [one for one in spans if one.name == RESTORE and one.error]
    assert {one.service for one in failed} == {CLIENT, SIDECAR}
    assert all("exists" in one.error for one in failed)


def test_a_restore_by_containerd_is_in_its_trace(traced: Cryo, collector: Collector) -> None:
    """Containerd 2 traces as well: what its shim does is a part of that."""
    reference, again = traced.fresh("image"), traced.fresh("again")
    with traced.images_apart(), traced.container("sleep", "1000") as name:
        traced.ctr("containers", "checkpoint", "--rw", "--image", "--task", name, reference)
        with traced.removing(again):
            traced.ctr("containers", "restore", "--rw", "--live", again, reference)
            collector.until("restore", SHIM)

    spans = collector.spans
    above = path_to(spans, only(spans, "restore", SHIM))
    start = (SHIM, "/containerd.task.v3.Task/Start")
    assert above[-2:] == [start, (SHIM, "restore")]
    assert {service for service, _ in above} == {"containerd", SHIM}
