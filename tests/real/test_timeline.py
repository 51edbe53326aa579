"""Where the time went, on real runsc: of what succeeds and of what fails, for tasks and images."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import CudaError, DeadlineExceeded
from shim.image import side_files
from shim.model import CheckpointOptions, EngineName, Phase, Timeline
from shim.simgpu.simulation import Fault, Kind
from shim.timeline.bounds import bounds, shares
from tests.real.helpers_rig import Rig, refused
from tests.real.test_pods import Pod

pytestmark = pytest.mark.timeout(120)


def phases(timeline: Timeline) -> list[Phase]:
    """Return the phases, each once."""
    return list(dict.fromkeys(span.phase for span in timeline.spans if span.is_phase))


def commands(timeline: Timeline, phase: Phase) -> set[str]:
    """Return the names of the commands of a phase."""
    return {span.name for span in timeline.spans if span.name and span.phase is phase}


def test_a_checkpoint_and_a_restore(rig: Rig, engine: str) -> None:
    """Phases, commands and processes are recorded, with the task and in the image."""
    rig.workload("job", processes=2)
    image = rig.checkpoint("job", engine).image_path

    (of_task,) = rig.client.timelines("job")
    of_image = rig.client.image_timeline(image)

    assert phases(of_task)[:1] == [Phase.PREFLIGHT]
    assert phases(of_task)[-2:] == [Phase.SEAL, Phase.COMMIT]
    assert "runsc checkpoint" in commands(of_task, Phase.SAVE)
    assert of_task.spans[: len(of_image.spans)] == of_image.spans
    assert (of_image.partial, of_image.size_bytes > 0) == (False, True)
    assert of_task.gpu_bytes == rig.sim.held_bytes()
    assert of_task.total_s >= max(one.start_s + one.duration_s for one in of_task.spans)
    steps = {(span.phase, span.pid) for span in of_task.spans if span.pid}
    if engine == EngineName.PHASED:
        assert len({pid for phase, pid in steps if phase is Phase.FREEZE}) == 2
        assert len({pid for phase, pid in steps if phase is Phase.THAW}) == 2
    parts = shares(of_task)
    assert 0 < parts.own_s < parts.total_s
    assert Phase.SAVE in {bound.phase for bound in bounds(of_task, rig.client.speeds(image))}

    rig.restore("copy", image)
    (restored,) = rig.client.timelines("copy")
    assert (restored.operation, restored.image_path) == ("restore", image)
    assert phases(restored) == [Phase.VERIFY, Phase.LOAD, Phase.THAW]
    assert restored.notes[0].startswith("pages read ")
    assert "runsc restore" in commands(restored, Phase.LOAD)


def test_an_image_that_lost_the_file(rig: Rig) -> None:
    """What was sealed has the phases up to the seal, and is verified as before."""
    rig.workload("job")
    image = rig.checkpoint("job").image_path
    (Path(image) / side_files.TIMELINE).unlink()

    found = rig.client.image_timeline(image)

    assert found.partial
    assert Phase.SAVE in phases(found)
    assert Phase.SEAL not in phases(found)
    rig.client.verify(image)


def test_a_failed_checkpoint(rig: Rig) -> None:
    """The phase that failed and the rollback are recorded, with the error."""
    rig.workload("job", processes=2)
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.FAIL))

    error = refused(CudaError, lambda: rig.checkpoint("job", "phased"))
    rig.sim.faults()

    (found,) = rig.client.timelines("job")
    assert phases(found)[-2:] == [Phase.FREEZE, Phase.ROLLBACK]
    assert found.error == str(error)
    assert rig.fine("job")


def test_a_deadline_is_recorded(rig: Rig) -> None:
    """A checkpoint that was too slow says where it was."""
    rig.workload("job")
    rig.sim.faults(Fault(action="checkpoint", kind=Kind.SLOW, seconds=20.0))
    options = CheckpointOptions(engine=EngineName.PHASED, timeout_s=2.0)

    refused(DeadlineExceeded, lambda: rig.client.checkpoint("job", options))
    rig.sim.faults()

    (found,) = rig.client.timelines("job")
    longest = max((s for s in found.spans if s.is_phase), key=lambda span: span.duration_s)
    assert longest.phase in {Phase.FREEZE, Phase.ROLLBACK}
    assert "it was in phase freeze" in found.error


def test_a_park(rig: Rig) -> None:
    """Both directions are recorded, with what the task held."""
    bundle = rig.sim.bundle(
        "job", rig.settings(), inject_tool=False, annotations={"io.cryo.park": "true"}
    )
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    rig.sim.until_ready(rig.guest, "job")
    held = rig.sim.held_bytes()
    rig.client.pause("job")
    rig.client.resume("job")

    park, unpark = rig.client.timelines("job")

    assert (park.operation, unpark.operation) == ("park", "unpark")
    assert (park.gpu_bytes, unpark.gpu_bytes) == (held, held)
    assert Phase.FREEZE in phases(park)
    assert Phase.THAW in phases(unpark)
    assert "runsc pause" in {span.name for span in park.spans}
    assert "runsc resume" in {span.name for span in unpark.spans}


def test_it_outlives_the_owner(rig: Rig) -> None:
    """The next sidecar has the timelines of the killed one, and adds its own."""
    rig.workload("job")
    rig.checkpoint("job")
    (before,) = rig.client.timelines("job")

    rig.crash()

    assert rig.client.timelines("job") == [before]
    rig.checkpoint("job")
    assert [one.operation for one in rig.client.timelines("job")] == ["checkpoint", "checkpoint"]


def test_a_pod(rig: Rig) -> None:
    """An operation on a pod is one on each of its containers, whose processes are distinguished."""
    pod = Pod(rig)
    pod.begin()
    image = rig.checkpoint(pod.train, "phased").image_path

    of_members = [rig.client.timelines(name) for name in pod.ids]

    assert all(one == of_members[0] for one in of_members)
    (found,) = of_members[0]
    assert found.task == pod.sandbox
    assert {span.container for span in found.spans if span.pid} == {pod.train}
    assert rig.client.image_timeline(image).spans == found.spans
