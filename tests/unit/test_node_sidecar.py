"""The sidecar that the installer of Kubernetes nodes runs, with a unit that a fake service runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hack.kubernetes.node import bundle
from hack.kubernetes.node.install import Installer
from hack.kubernetes.node.paths import MARK, Node
from hack.kubernetes.node.sidecar import NAME
from hack.kubernetes.node.versions import Versions
from shim.errors import FailedPrecondition, Unavailable
from shim.host import procs
from shim.model import Stdio, TaskRef, utcnow
from shim.simgpu.waiting import wait_until
from shim.task import record
from shim.task.layout import Layout
from tests.unit.helpers_bundle import small_bundle

# Stand-ins for the sidecar, its supervisor and a shim, with their names and command lines.
CODE = "import ctypes, sys; ctypes.CDLL(None).prctl(15, sys.argv[1].encode()); sys.stdin.read()"


class FakeService:
    """A unit of systemd, which fails as systemctl does where it has no file."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.calls: list[str] = []
        self.pid = 0
        self.fails = ""
        self.before_stop: Callable[[], object] = bool

    def reload(self) -> None:
        """Read the files again."""
        self.calls.append("reload")

    def enable(self) -> None:
        """Let it start with the node."""
        self._do("enable")

    def disable(self) -> None:
        """Let it not start with the node."""
        self._do("disable")

    def start(self) -> None:
        """Start it."""
        self._do("start")

    def stop(self) -> None:
        """Stop it."""
        self.before_stop()
        self._do("stop")
        self.pid = 0

    def main_pid(self) -> int:
        """Return its process."""
        return self.pid

    def _do(self, verb: str) -> None:
        self.calls.append(verb)
        if not unit_of(self.node).exists() or verb == self.fails:
            raise Unavailable(f"systemctl {verb} failed", remedy="read its log")


def unit_of(node: Node) -> Path:
    """Return the path of the unit here."""
    return node.at(node.units / NAME)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node with a config.toml of containerd, a runsc and settings with a state of ours."""
    made = Node(tmp_path / "root")
    for path, text in (
        (made.containerd, "version = 3\nimports = []\n"),
        (Path("/usr/local/bin/runsc"), ""),
    ):
        made.at(path).parent.mkdir(parents=True)
        made.at(path).write_text(text, "utf-8")
    made.at(Path("/usr/local/bin/runsc")).chmod(0o755)
    return made


@pytest.fixture
def service(node: Node) -> FakeService:
    """Return its unit."""
    return FakeService(node)


@pytest.fixture
def installer(node: Node, service: FakeService) -> Installer:
    """Return an installer that restarts no containerd."""
    return Installer(node, service=service)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """Return a bundle whose loader runs Python."""
    return python_bundle(tmp_path / "one")


def python_bundle(folder: Path) -> Path:
    """Write a bundle whose loader is a copy of this interpreter."""
    small_bundle(folder)
    loader = folder / bundle.LIBRARIES / bundle.LOADER
    loader.write_bytes(Path(sys.executable).resolve().read_bytes())
    loader.chmod(0o755)
    return folder


class Process:
    """A process of an installed version, which ends with its standard input."""

    def __init__(self, node: Node, version: str, name: str, *words: str) -> None:
        loader = node.at(node.prefix / "versions" / version) / bundle.LIBRARIES / bundle.LOADER
        argv = [str(loader), "-c", CODE, name, *words]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE)
        comm = Path(f"/proc/{self.pid}/comm")
        wait_until(lambda: comm.read_text("utf-8").strip() == name, name, 30.0)

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Yield a list of processes to end."""
    made: list[Process] = []
    yield made
    for each in made:
        each.end()


def test_it_is_installed_enabled_and_started(
    node: Node, installer: Installer, service: FakeService, one: Path
) -> None:
    """The unit is the packaged one with the program of the version in use, and it runs."""
    done = list(installer.install(one))

    text = unit_of(node).read_text("utf-8")
    assert text.startswith(MARK)
    assert "\nExecStart=/opt/cryoshim/current/bin/cryo serve\n" in text
    assert service.calls == ["reload", "enable", "stop", "start"]
    assert done[-1] == "the sidecar was started"


def test_it_is_not_restarted_without_a_change(
    installer: Installer, service: FakeService, one: Path
) -> None:
    """A second run with the same version and settings leaves it alone."""
    list(installer.install(one))
    service.calls.clear()

    list(installer.install(one))

    assert service.calls == []


@pytest.mark.parametrize("what", ("version", "settings", "unit"))
def test_it_is_restarted_after_a_change(
    node: Node, installer: Installer, service: FakeService, one: Path, tmp_path: Path, what: str
) -> None:
    """Another version, other settings and another unit each restart it."""
    list(installer.install(one))
    service.calls.clear()
    settings = tmp_path / "given.toml"
    settings.write_text("[timeouts]\nsave = 5.0\n", "utf-8")
    if what == "unit":
        unit_of(node).write_text(f"{MARK}# an earlier one\n", "utf-8")

    list(
        installer.install(
            python_bundle(tmp_path / "two") if what == "version" else one,
            settings if what == "settings" else None,
        )
    )

    assert service.calls == ["reload", "enable", "stop", "start"]


@pytest.mark.parametrize("after", range(1, 5))
def test_a_killed_installation_is_completed(
    installer: Installer, service: FakeService, one: Path, after: int
) -> None:
    """Whatever step fails or is the last, the next run restarts it, and only that one."""
    steps = ("reload", "enable", "stop", "start")
    service.fails = steps[after - 1]
    begun = installer.install(one)
    if after == 1:  # killed before the first step
        while "changed" not in next(begun):
            pass
        begun.close()
    else:
        with pytest.raises(Unavailable, match=f"systemctl {service.fails}"):
            list(begun)
    service.fails = ""
    service.calls.clear()

    list(installer.install(one))
    assert service.calls == list(steps)
    list(installer.install(one))
    assert service.calls == list(steps)


@pytest.mark.parametrize(
    "folder", ("etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system")
)
def test_a_unit_of_another_is_not_replaced(
    node: Node, installer: Installer, one: Path, folder: str
) -> None:
    """One that the installer did not write is refused by name before anything is changed."""
    path = node.root / folder / NAME
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\n", "utf-8")

    with pytest.raises(FailedPrecondition, match=f"/{folder}/{NAME} was not written") as caught:
        list(installer.install(one))

    assert "--no-sidecar" in caught.value.remedy
    assert Versions(node).names() == []
    list(Installer(node, sidecar=False).install(one))
    list(installer.remove())
    assert path.read_text("utf-8") == "[Service]\n"


def test_a_masked_unit_is_not_replaced(node: Node, installer: Installer, one: Path) -> None:
    """A link, by which systemd masks a unit, is refused."""
    unit_of(node).parent.mkdir(parents=True)
    unit_of(node).symlink_to("/dev/null")

    with pytest.raises(FailedPrecondition, match="was not written"):
        list(installer.install(one))


def test_a_removal_leaves_no_unit(
    node: Node, installer: Installer, service: FakeService, one: Path
) -> None:
    """It is stopped and disabled before its file goes, and systemd reads its files again."""
    list(installer.install(one))
    service.calls.clear()

    list(installer.remove())

    assert service.calls == ["stop", "disable", "reload"]
    assert not unit_of(node).exists()
    assert not node.at(node.prefix).exists()


@pytest.mark.parametrize("step", ("stop", "disable"))
def test_a_failed_removal_is_completed(
    node: Node, installer: Installer, service: FakeService, one: Path, step: str
) -> None:
    """A step that fails keeps what follows; the next run does all of it."""
    list(installer.install(one))
    service.fails = step
    with pytest.raises(Unavailable, match=step):
        list(installer.remove())
    assert unit_of(node).exists()
    service.fails = ""

    list(installer.remove())

    assert not node.at(node.prefix).exists()


def test_a_removal_that_was_killed_is_completed(
    installer: Installer, service: FakeService, one: Path
) -> None:
    """Killed when the file is gone and systemd does not know, the next run tells it."""
    list(installer.install(one))
    begun = iter(installer.remove())
    while next(begun) != f"removed {NAME}":
        pass
    del begun
    service.calls.clear()

    list(installer.remove())

    assert service.calls == ["reload"]


def test_without_a_sidecar_an_earlier_one_is_removed(
    node: Node, installer: Installer, service: FakeService, one: Path
) -> None:
    """An installation without a sidecar removes the unit of the last one, and writes none."""
    list(installer.install(one))

    list(Installer(node, service=service, sidecar=False).install(one))
    assert not unit_of(node).exists()
    service.calls.clear()
    list(Installer(node, service=service, sidecar=False).install(one))

    assert not unit_of(node).exists()
    assert service.calls == []


def test_the_sidecar_keeps_no_version(
    node: Node, installer: Installer, service: FakeService, one: Path, processes: list[Process]
) -> None:
    """Neither it nor its idle supervisor prevents a removal, which ends them."""
    list(installer.install(one))
    script = "/opt/cryoshim/versions/one/libexec/cryo"
    processes += [
        Process(node, "one", "python3", script, "serve"),
        supervisor := Process(node, "one", "cryo-supervisor"),
    ]
    service.pid = processes[0].pid
    installer.wait_until_unused(0.0)

    service.before_stop = processes[0].end
    list(installer.remove())

    assert supervisor.process.wait(10)
    assert not node.at(node.prefix).exists()


def test_a_sidecar_of_another_is_not_ended(
    node: Node, installer: Installer, one: Path, processes: list[Process]
) -> None:
    """One that was started by hand prevents a removal and an upgrade, by its pid."""
    list(installer.install(one))
    script = "/opt/cryoshim/versions/one/libexec/cryo"
    processes.append(by_hand := Process(node, "one", "python3", script, "serve"))

    with pytest.raises(FailedPrecondition, match=f"process {by_hand.pid}; nothing was removed"):
        list(installer.remove())
    with pytest.raises(FailedPrecondition, match=f"process {by_hand.pid}; nothing was changed"):
        list(installer.install(one))

    assert by_hand.process.poll() is None


def test_nothing_is_removed_under_a_task(
    node: Node, installer: Installer, service: FakeService, one: Path, processes: list[Process]
) -> None:
    """A task of the sidecar prevents a removal by its name, whether the sidecar runs or not."""
    list(installer.install(one))
    processes.append(sandbox := Process(node, "one", "runsc-sandbox"))
    write_task(node, sandbox.pid)
    service.calls.clear()

    for each in (installer, Installer(node), Installer(node, service=service, sidecar=False)):
        act = each.remove() if each.sidecar else each.install(one)
        with pytest.raises(FailedPrecondition, match="job in namespace default") as caught:
            list(act)
        assert "cryo tasks ls" in caught.value.remedy
    assert service.calls == []
    assert unit_of(node).exists()

    sandbox.end()
    list(installer.remove())
    assert not node.at(node.prefix).exists()


def write_task(node: Node, pid: int) -> None:
    """Write the record of a task of the sidecar with this process."""
    folder = node.at(Path("/run/cryo/tasks/default/job"))
    folder.mkdir(parents=True)
    start = procs.start_time(pid) or 0
    ref = TaskRef(namespace="default", id="job")
    record.save(
        Layout(node.at(Path("/run/cryo"))).task(ref),
        record.TaskRecord(
            ref=ref,
            bundle="/b",
            stdio=Stdio(),
            created_at=utcnow(),
            pid=pid,
            start=start,
        ),
    )


def test_a_child_of_the_supervisor_is_a_task(
    node: Node, installer: Installer, service: FakeService, one: Path, processes: list[Process]
) -> None:
    """A process that no record names, as of a task that is being created, prevents a removal."""
    list(installer.install(one))
    loader = node.at(node.prefix / "versions/one") / bundle.LIBRARIES / bundle.LOADER
    code = f"import subprocess; subprocess.Popen(['sleep', '1000']); {CODE}"
    with subprocess.Popen(
        [str(loader), "-c", code, "cryo-supervisor"], stdin=subprocess.PIPE
    ) as parent:
        try:
            comm = Path(f"/proc/{parent.pid}/comm")
            wait_until(lambda: comm.read_text("utf-8").strip() == "cryo-supervisor", "it", 30.0)
            with pytest.raises(FailedPrecondition, match="tasks of the sidecar run: process "):
                list(installer.remove())
        finally:
            for pid in procs.children(parent.pid):
                subprocess.run(["kill", str(pid)], check=True)
            parent.kill()


def test_a_task_that_is_created_meanwhile_gets_its_sidecar_back(
    node: Node, installer: Installer, service: FakeService, one: Path, processes: list[Process]
) -> None:
    """If a task was created before the sidecar had stopped, that is started again."""
    list(installer.install(one))
    service.calls.clear()

    def create() -> None:
        processes.append(sandbox := Process(node, "one", "runsc-sandbox"))
        write_task(node, sandbox.pid)

    service.before_stop = create
    with pytest.raises(FailedPrecondition, match="job in namespace default"):
        list(installer.remove())

    assert service.calls == ["stop", "start"]
    assert unit_of(node).exists()


def test_an_old_supervisor_is_replaced_when_its_tasks_are_gone(
    installer: Installer,
    service: FakeService,
    node: Node,
    one: Path,
    tmp_path: Path,
    processes: list[Process],
) -> None:
    """A supervisor keeps its version while it has tasks; the next run after them restarts it."""
    list(installer.install(one))
    processes.append(supervisor := Process(node, "one", "cryo-supervisor"))
    processes.append(sandbox := Process(node, "one", "runsc-sandbox"))
    write_task(node, sandbox.pid)
    two = python_bundle(tmp_path / "two")
    list(installer.install(two))
    assert supervisor.process.poll() is None
    service.calls.clear()
    list(installer.install(two))
    assert service.calls == []

    sandbox.end()
    list(installer.install(two))

    assert service.calls == ["reload", "enable", "stop", "start"]
    assert supervisor.process.wait(10)
    assert Versions(node).names() == ["two"]


def test_a_version_of_tasks_is_reported_as_such(
    node: Node, installer: Installer, one: Path, processes: list[Process], tmp_path: Path
) -> None:
    """A version that a supervisor with tasks keeps is not said to be used by pods."""
    list(installer.install(one))
    processes.append(Process(node, "one", "cryo-supervisor"))

    done = list(Installer(node, sidecar=False).install(python_bundle(tmp_path / "two")))

    assert done[-1] == "version one is still used by tasks of the sidecar"


class FakeContainerd:
    """A containerd that calls a function before it restarts."""

    def __init__(self) -> None:
        self.before_restart: Callable[[], object] = bool

    def restart(self) -> None:
        """Restart."""
        self.before_restart()

    def is_ending(self) -> bool:
        """Return False."""
        return False


def test_a_pod_that_starts_meanwhile_gets_the_runtime_back(
    node: Node, service: FakeService, one: Path, processes: list[Process]
) -> None:
    """If a pod was started before containerd had restarted, containerd has the runtime again."""
    daemon = FakeContainerd()
    installer = Installer(node, daemon, service=service)
    list(installer.install(one))
    text = node.at(node.containerd).read_text("utf-8")

    def start_pod() -> None:
        if not processes:
            processes.append(Process(node, "one", "cryo-shim"))

    daemon.before_restart = start_pod
    service.calls.clear()

    with pytest.raises(FailedPrecondition, match="running pods use one"):
        list(installer.remove())

    assert node.at(node.containerd).read_text("utf-8") == text
    assert service.calls == ["stop", "start"]
    assert unit_of(node).exists()


def test_a_removal_ends_idle_fork_servers(
    node: Node, installer: Installer, one: Path, processes: list[Process]
) -> None:
    """A fork server without a shim prevents no removal, and does not outlast it."""
    list(installer.install(one))
    processes.append(idle := Process(node, "one", "cryo-forkserver"))

    list(installer.remove())

    assert idle.process.wait(10)
