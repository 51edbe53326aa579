"""The same warm start by each client of containerd, with and without GPU processes, and runsc.

| client | without | with GPU processes | runsc |
|---|---|---|---|
| ctr | this file; containerd 1.6 to 2.4: test_warm.py | this file | new, old |
| nerdctl | this file | this file | new, old |
| docker | this file | this file | new, old |
| cryo run | tests/real/test_warm_commands.py | the same | new, old |
| gRPC | tests/real/test_warm.py | the same | new, old |

`--all` runs all of it, `make test` each client and each kind of container with one of the runsc.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from shim.simgpu.simulation import Settings, Simulation
from tests.builds import RunscBuild, find_program
from tests.containerd import cryo, gpu
from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.cryo import COUNT, COUNTS, GPU_FLAGS, Cryo
from tests.containerd.daemon import numbers
from tests.containerd.docker import Dockerd
from tests.containerd.image import REFERENCE
from tests.containerd.nerdctl import Nerdctl
from tests.containerd.place import Place
from tests.containerd.warm_clients import (
    Client,
    WithCtr,
    WithDocker,
    WithNerdctl,
    annotation_flags,
)

READY = "/ready"
# Docker has them by this name; the type is what its daemon.json names.
RUNTIMES = {cryo.RUNTIME: cryo.RUNTIME}


@pytest.fixture(scope="module")
def node(
    runsc: RunscBuild, simulation: Simulation, gpu_place: Place, archive: Path
) -> Iterator[Cryo]:
    """Yield the newest containerd with our shim and a runsc, on a machine with a GPU."""
    program("containerd-2.4")
    settings = {"cuda": gpu.cdi_settings(simulation, gpu_place.folder_for("cdi") / "files")}
    build = find_containerd("2.4")
    with Cryo(build, gpu_place, runsc.path, flags=GPU_FLAGS, settings=settings) as made:
        made.import_image(archive)
        made.run("first", "true")
        yield made


@pytest.fixture(scope="module")
def ctr(node: Cryo) -> WithCtr:
    """Return ctr."""
    return WithCtr(node)


@pytest.fixture(scope="module")
def nerdctl(node: Cryo) -> WithNerdctl:
    """Return nerdctl, which is optional."""
    try:
        path = find_program("nerdctl")
    except NotHere as no:
        pytest.skip(str(no))
    return WithNerdctl(Nerdctl(node, path))


@pytest.fixture(scope="module")
def docker(
    runsc: RunscBuild,
    simulation: Simulation,
    gpu_place: Place,
    runc: Path,
    archive: Path,
    docker_build: Path,
) -> Iterator[WithDocker]:
    """Yield docker with its daemon, our shim and a runsc, on a machine with a GPU."""
    program("containerd-1.7")
    folder = gpu_place.folder_for("dc")
    settings = {"cuda": gpu.cdi_settings(simulation, folder / "cdi")}
    config = cryo.write_config(folder, runsc.path, GPU_FLAGS, settings)
    with Dockerd(
        docker_build,
        find_containerd("1.7"),
        gpu_place,
        programs={"runc": runc, cryo.LAUNCHER: cryo.write_launcher(folder)},
        runtimes=RUNTIMES,
        env={"CRYO_CONFIG": str(config)},
    ) as made:
        made.docker("load", "--input", str(archive))
        made.docker(
            "run", "--rm", "--runtime", cryo.RUNTIME, "--network", "none", REFERENCE, "true"
        )
        yield WithDocker(made, folder / "images")


@pytest.fixture
def client(request: pytest.FixtureRequest, runsc: RunscBuild) -> Iterator[Client]:
    """Yield the client that the test names; afterwards check that nothing is left."""
    made: Client = request.getfixturevalue(request.param)
    before = made.daemon.look()
    yield made
    left = made.daemon.left_behind(before)
    assert not left, "\n".join(left)


@pytest.fixture
def workload(request: pytest.FixtureRequest, client: Client, simulation: Simulation) -> Workload:
    """Return what the test names: containers that count, or work with GPU processes."""
    return Workload(client, simulation, gpu=request.param == "gpu")


class Workload:
    """The two containers of a warm start, which a client runs one after the other."""

    def __init__(self, client: Client, simulation: Simulation, *, gpu: bool) -> None:
        self._client = client
        self._simulation = simulation
        self._gpu = gpu

    def run(self, box: str, name: str) -> None:
        """Start a container, and wait until it works."""
        when = {"io.cryo.warm": name, "io.cryo.warm-when": f"file:{READY}"}
        flags = annotation_flags({**when, "io.cryo.warm-period": "0.1"})
        if not self._gpu:
            self._client.run(box, flags, ("sh", "-c", COUNT))
            return
        by_volume = self._client.volume_syntax
        mounts = (gpu.volume_flags if by_volume else gpu.image_flags)(self._simulation)
        command = gpu.workload(Settings(processes=2))
        self._client.run(box, (*flags, "--env", gpu.CDI_ENV, *mounts), command)
        self._simulation.until_ready(self._client, box)

    def progress(self, box: str) -> int:
        """Return how far a container is, once it goes on; with a GPU nothing of it is lost."""
        if not self._gpu:
            return int(self._client.exec(box, ("sh", "-c", COUNTS)).out)
        assert self._simulation.works(self._client, box)
        status = self._simulation.verify(self._client, box)
        assert status.intact
        return min(status.generations.values())


@pytest.mark.parametrize(
    ("client", "workload"),
    (
        ("ctr", "plain"),
        ("ctr", "gpu"),
        ("nerdctl", "plain"),
        ("docker", "plain"),
        pytest.param("nerdctl", "gpu", marks=pytest.mark.long),
        pytest.param("docker", "gpu", marks=pytest.mark.long),
    ),
    indirect=True,
)
def test_a_warm_start(client: Client, workload: Workload) -> None:
    """With one annotation a container starts cold and is saved; the next is a restore."""
    name = f"llama-{next(numbers)}"
    images = client.images(name)
    boxes = ("cold", "warm")
    try:
        workload.run("cold", name)
        before = workload.progress("cold")
        assert client.exec("cold", ("touch", READY)).status == 0
        images.until_saved()
        client.remove("cold")

        workload.run("warm", name)

        assert client.exec("warm", ("ls", READY)).out == f"{READY}\n"
        assert workload.progress("warm") >= before
        images.until_hit()
    finally:
        for box in boxes:
            client.remove(box)
