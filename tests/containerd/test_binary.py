"""`containerd-shim-cryo-v1` as containerd calls it, without containerd."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from shim import __version__
from shim.api.containerd.task.v3 import shim_pb2
from shim.api.containerd.types import introspection_pb2
from shim.simgpu.waiting import environment, wait_until
from tests.builds import RunscBuild, excuse
from tests.containerd.cryo import (
    FLAGS,
    LAUNCHER,
    NATIVE,
    SCRIPT,
    comm,
    write_config,
    write_launcher,
)
from tests.containerd.place import Place, private_place

_LIMIT_S = 60.0
# Prints our processes, whatever their settings.
_MARK = "CRYO_TEST_FOLDER"
# What containerd 2.3 and later write to `start`: BootstrapParams, whose first field is the id.
_OPTIONS = AnyMessage(type_url="containerd.runc.v1.Options", value=b"\x08\x01").SerializeToString()
# Prints the modules that are loaded in addition to those of an empty program.
_PROGRAM = """
import sys
before = set(sys.modules)
import atexit
def report():
    print(*sorted(set(sys.modules) - before), file=sys.stderr)
atexit.register(report)
from shim.entry.shimbin.main import main
main()
"""


@dataclass(frozen=True)
class Answer:
    """The output and exit status of a call."""

    status: int
    out: bytes
    err: str
    elapsed_s: float


class Binary:
    """The launcher, and a directory like that of containerd's bundles."""

    def __init__(self, place: Place, runsc: Path, *, native: bool) -> None:
        self.place = place
        self.folder = place.folder_for("binary")
        self.config = write_config(self.folder, runsc, FLAGS, {})
        self.native = native
        self.env: dict[str, str] = {}
        self.program = [str(write_launcher(self.folder, native=native))]

    def bundle(self, name: str, **annotations: str) -> Path:
        """Create the bundle of a container; `_` in an annotation's name stands for a dash."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        pairs = {f"io.kubernetes.cri.{k.replace('_', '-')}": v for k, v in annotations.items()}
        (folder / "config.json").write_text(json.dumps({"annotations": pairs}), "utf-8")
        return folder

    def call(self, cwd: Path, *words: str, given: bytes = b"") -> Answer:
        """Run it in a directory; its stdin ends, and its outputs must be closed when it exits."""
        (self.folder / "in").write_bytes(given)
        # containerd reads the pipes to their end.
        given_in, out, err = (self.folder / name for name in ("in", "out", "err"))
        errors = f'"$@" < {given_in} 2>&1 1>&3 3>&- | cat > {err} 3>&-'
        script = f"set -o pipefail; {{ {errors}; }} 3>&1 | cat > {out}"
        argv = ["bash", "-c", script, "-"]
        env = {
            **environment(),
            "CRYO_CONFIG": str(self.config),
            _MARK: str(self.folder),
            **self.env,
        }
        argv += [*self.program, *words]
        ran = self.place.remote.run(argv, cwd=str(cwd), env=env, timeout_s=_LIMIT_S)
        return Answer(ran.status, out.read_bytes(), err.read_text("utf-8"), ran.elapsed_s)

    def start(self, bundle: Path, namespace: str = "ns", given: bytes = b"") -> Answer:
        """Call `start` as containerd does for a new container."""
        return self.call(bundle, *self.flags(bundle, namespace), "start", given=given)

    def delete(self, bundle: Path, namespace: str = "ns") -> Answer:
        """Call `delete` as containerd does after a task's exit."""
        flags = (*self.flags(bundle, namespace), "-bundle", str(bundle))
        return self.call(bundle, *flags, "delete")

    def flags(self, bundle: Path, namespace: str) -> tuple[str, ...]:
        """Return containerd's flags."""
        where = ("-address", f"{self.folder}/c.sock", "-publish-binary", "/bin/containerd")
        return ("-namespace", namespace, *where, "-id", bundle.name)

    def shims(self) -> list[int]:
        """Return the running shims; a child before its exec still has the shim's name."""
        # `start` may answer before the fork of the fork server has taken its name.
        wait_until(lambda: not self._forks("cryo-forkserver")[1], "the name of a shim", 60)
        shims, _ = self._forks("cryo-shim")
        return [pid for pid in shims if self.has(pid)]

    def _forks(self, comm: str) -> tuple[list[int], list[int]]:
        """Return the processes of this name without and with a parent of the same name."""
        listed = self.place.do("ps", "-eo", "pid=,ppid=,comm=").splitlines()
        rows = [line.split() for line in listed]
        named = {int(pid): int(parent) for pid, parent, name, *_ in rows if name == comm}
        forks = [pid for pid, parent in named.items() if parent in named]
        return [pid for pid in named if pid not in forks], forks

    def has(self, pid: int) -> bool:
        """Return whether a process belongs to this directory."""
        try:
            return f"{_MARK}={self.folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def sockets(self) -> set[str]:
        """Return the sockets of shims in the place."""
        return set(self.place.do("ls", "/run/containerd/s").split())


def runtime_options(field: int, value: bytes) -> bytes:
    """Encode runtime options with one field, as containerd up to 2.2 does."""
    length = bytes((len(value) & 0x7F | 0x80, len(value) >> 7))
    packed = bytes((field << 3 | 2,)) + length + value
    return AnyMessage(type_url="runtimeoptions.v1.Options", value=packed).SerializeToString()


def setting_of(pid: int) -> str:
    """Return the settings file that a shim was given."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    (found,) = (line.partition("=")[2] for line in lines if line.startswith("CRYO_CONFIG="))
    return found


def hears(pid: int, number: signal.Signals) -> bool:
    """Return whether a process handles a signal, or has exited."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:
        return True
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.fixture(scope="module", params=(True, False), ids=("launcher", "python"))
def binary(request: pytest.FixtureRequest, runsc_new: RunscBuild) -> Iterator[Binary]:
    """Yield the binary in a place of its own, with the launcher in C and without one."""
    native: bool = request.param
    if native and not NATIVE.exists():
        excuse("the launcher is not built: there is no C compiler")
    with private_place() as place:
        place.do("mkdir", "-p", "/run/containerd/s")
        yield Binary(place, runsc_new.path, native=native)


@pytest.fixture(autouse=True)
def shims_end(binary: Binary) -> Iterator[None]:
    """Stop the shims of a test: without a task they exit on a signal and remove their sockets."""
    yield
    for pid in binary.shims():
        wait_until(partial(hears, pid, signal.SIGTERM), f"shim {pid}", 60)
        binary.place.remote.kill(pid, signal.SIGTERM)
    wait_until(lambda: not binary.shims() and not binary.sockets(), "the end of the shims", 60)


@pytest.mark.parametrize("given", (b"", _OPTIONS), ids=("empty", "any"))
def test_start_up_to_2_2(binary: Binary, given: bytes) -> None:
    """With options or nothing on stdin only the address is printed, without a newline."""
    bundle = binary.bundle("old")

    answer = binary.start(bundle, given=given)

    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith(b"unix:///run/containerd/s/")
    assert not answer.out.endswith(b"\n")
    assert (bundle / "address").read_bytes() == answer.out


def test_start_from_2_3(binary: Binary) -> None:
    """With BootstrapParams on stdin the answer has the protocol, and Task service v3."""
    bundle = binary.bundle("new")
    params = b"\x0a\x03new" + b"\x12\x02ns"

    answer = binary.start(bundle, given=params)

    assert (answer.status, answer.err) == (0, "")
    reported = json.loads(answer.out)
    assert reported["address"].startswith("unix:///run/containerd/s/")
    assert (reported["protocol"], reported["version"]) == ("ttrpc", 3)


def test_settings_of_the_runtime_options(binary: Binary) -> None:
    """The settings file or text in the runtime options is used by the shim and by `delete`."""
    named = Path(f"{binary.config}.other")
    shutil.copy(binary.config, named)
    path = str(named).encode()

    by_path = binary.start(binary.bundle("named"), given=runtime_options(2, path))
    (shim,) = binary.shims()
    assert setting_of(shim) == str(named)
    as_text = binary.start(binary.bundle("text"), given=runtime_options(3, named.read_bytes()))

    assert (by_path.status, as_text.status) == (0, 0)
    assert by_path.out != as_text.out
    for name in ("named", "text"):
        pointer = binary.folder / name / "cryo.settings"
        assert binary.place.do("cat", pointer.read_text("utf-8")) == named.read_text("utf-8")


def test_settings_that_are_not_there(binary: Binary) -> None:
    """If the settings file does not exist, `start` fails with an error and starts no shim."""
    answer = binary.start(binary.bundle("none"), given=runtime_options(2, b"/no/such.toml"))

    assert answer.status != 0
    assert "/no/such.toml" in answer.err
    assert binary.shims() == []


def test_start_twice(binary: Binary) -> None:
    """A second start for a container returns the existing shim."""
    bundle = binary.bundle("twice")
    first = binary.start(bundle)
    shims = binary.shims()

    assert binary.start(bundle).out == first.out
    assert binary.shims() == shims
    assert len(shims) == 1


def test_a_shim_keeps_nothing_of_its_start(binary: Binary) -> None:
    """Neither its directory nor its umask; its parent is the fork server, also of the next one."""
    parents = set()
    for name in ("first", "second"):
        binary.start(binary.bundle(name))
    for pid in binary.shims():
        wait_until(partial(hears, pid, signal.SIGTERM), f"shim {pid}", 60)
        status = Path(f"/proc/{pid}/status").read_text("ascii")
        (parent,) = re.findall(r"^PPid:\t(\d+)$", status, re.MULTILINE)
        parents.add(comm(int(parent)))
        assert re.search(r"^Umask:\t0077$", status, re.MULTILINE)
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert parents == {"cryo-forkserver"}


def test_a_dead_shim_is_replaced(binary: Binary) -> None:
    """A start that finds the socket of a dead shim starts a new shim."""
    bundle = binary.bundle("dead")
    first = binary.start(bundle)
    (old,) = binary.shims()
    binary.place.remote.kill(old)
    wait_until(lambda: not binary.shims(), "the end of a shim", 60)

    assert binary.start(bundle).out == first.out
    (new,) = binary.shims()
    assert new != old
    assert comm(new) == "cryo-shim"


def test_a_pod_has_one_shim(binary: Binary) -> None:
    """Containers of one sandbox share a shim; another sandbox, or namespace, has its own."""
    one = binary.start(binary.bundle("pause", sandbox_id="pause"))
    two = binary.start(binary.bundle("app", sandbox_id="pause"))
    other = binary.start(binary.bundle("lone", sandbox_id="lone"))
    elsewhere = binary.start(binary.bundle("app", sandbox_id="pause"), namespace="other")

    assert one.out == two.out
    assert len({one.out, other.out, elsewhere.out}) == 3
    assert len(binary.shims()) == 3


def test_a_group_names_no_path(binary: Binary) -> None:
    """Whatever the sandbox id in an annotation, the socket is in the directory of sockets."""
    wild = "../../../tmp/else" + "x" * 200

    answer = binary.start(binary.bundle("wild", sandbox_id=wild))

    assert answer.status == 0
    name = answer.out.decode().removeprefix("unix:///run/containerd/s/")
    assert binary.sockets() == {name}


def test_start_loads_little(binary: Binary) -> None:
    """`start` loads neither grpc, asyncio nor protobuf, nor modules that are as slow."""
    bundle = binary.bundle("little")
    binary.start(bundle)
    program, binary.program = binary.program, [sys.executable, "-c", _PROGRAM]
    try:
        # Once for an existing shim, once for a new one.
        loaded = set(binary.start(bundle).err.split())
        loaded |= set(binary.start(binary.bundle("little-2")).err.split())
    finally:
        binary.program = program

    assert "shim.entry.shimbin.start" in loaded
    heavy = {"asyncio", "grpc", "google", "msgspec", "pathlib", "socket", "subprocess", "json"}
    assert heavy & {name.partition(".")[0] for name in loaded} == set()


def test_delete_loads_little(binary: Binary) -> None:
    """`delete` loads neither grpc nor asyncio; with nothing to do, hardly any module."""
    bundle = binary.bundle("gone")
    program, binary.program = binary.program, [sys.executable, "-c", _PROGRAM]
    try:
        nothing = set(binary.delete(bundle).err.split())
        (bundle / "cryo").symlink_to(binary.folder / "nowhere")
        something = set(binary.delete(bundle).err.split())
    finally:
        binary.program = program

    assert "shim.entry.shimbin.delete" in something
    assert not {name.partition(".")[0] for name in something} & {"asyncio", "grpc"}
    assert not {name.partition(".")[0] for name in nothing} & {"asyncio", "grpc", "google", "json"}


def test_delete_may_be_repeated(binary: Binary) -> None:
    """`delete` succeeds each time, far below its timeout of five seconds."""
    bundle = binary.bundle("again")
    (bundle / "cryo").symlink_to(binary.folder / "nowhere")

    first, second = binary.delete(bundle), binary.delete(bundle)

    for answer in (first, second):
        assert (answer.status, answer.err) == (0, "")
        assert answer.elapsed_s < 4
        shim_pb2.DeleteResponse.FromString(answer.out)
    assert shim_pb2.DeleteResponse.FromString(first.out).exit_status == 137


def test_delete_with_nothing_to_do(binary: Binary) -> None:
    """After a shim has removed its socket `delete` prints nothing, each time."""
    bundle = binary.bundle("done")
    binary.start(bundle)
    (pid,) = binary.shims()
    wait_until(partial(hears, pid, signal.SIGTERM), f"shim {pid}", 60)
    binary.place.remote.kill(pid, signal.SIGTERM)
    wait_until(lambda: not binary.shims() and not binary.sockets(), "the end of a shim", 60)

    for _ in range(2):
        answer = binary.delete(bundle)
        assert (answer.status, answer.out, answer.err) == (0, b"", "")


def test_delete_of_what_was_never_created(binary: Binary) -> None:
    """The socket of a shim that died before its first container is removed with the bundle."""
    bundle = binary.bundle("never")
    binary.start(bundle)
    (pid,) = binary.shims()
    binary.place.remote.kill(pid)
    wait_until(lambda: not binary.shims(), "the end of a shim", 60)
    assert binary.sockets()

    assert binary.delete(bundle).status == 0
    assert not binary.sockets()


def test_delete_leaves_a_living_shim(binary: Binary) -> None:
    """`delete` for a container of a pod keeps the shim, which the others need."""
    binary.start(binary.bundle("pause", sandbox_id="pause"))
    member = binary.bundle("app", sandbox_id="pause")
    binary.start(member)

    assert binary.delete(member).status == 0
    assert len(binary.shims()) == len(binary.sockets()) == 1


def test_a_copy_works(binary: Binary) -> None:
    """A copy of the program works in any directory; the launcher finds its script on PATH."""
    elsewhere = binary.bundle("bin") / LAUNCHER
    shutil.copy2(binary.program[0], elsewhere)
    program, binary.program = binary.program, [str(elsewhere)]
    path = f"/nonexistent:{binary.folder}:{os.environ['PATH']}"
    try:
        alone = binary.start(binary.bundle("alone"))
        binary.env = {"PATH": path}
        assert binary.start(binary.bundle("copied")).out.startswith(b"unix://")
    finally:
        binary.program, binary.env = program, {}

    if binary.native:
        assert alone.status == 127
        assert SCRIPT in alone.err
    else:
        assert alone.out.startswith(b"unix://")


def test_a_link_works(binary: Binary) -> None:
    """A link to the program works in any directory."""
    link = binary.bundle("links") / LAUNCHER
    link.symlink_to(binary.program[0])
    program, binary.program = binary.program, [str(link)]
    try:
        assert binary.start(binary.bundle("linked")).out.startswith(b"unix://")
    finally:
        binary.program = program


def test_version_and_info(binary: Binary) -> None:
    """`-v` prints the version; `-info` describes the runtime in containerd's message."""
    version = binary.call(binary.folder, "-v")
    info = binary.call(binary.folder, "-info", given=_OPTIONS)

    assert __version__ in version.out.decode()
    assert (info.status, info.err) == (0, "")
    reported = introspection_pb2.RuntimeInfo.FromString(info.out)
    assert reported.name == "io.containerd.cryo.v1"
    assert reported.version.version == __version__


def test_no_action(binary: Binary) -> None:
    """Without an action it prints its usage and fails."""
    answer = binary.call(binary.folder)

    assert answer.status == 2
    assert "by containerd" in answer.err
