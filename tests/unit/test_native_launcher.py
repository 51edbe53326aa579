"""The launcher of shims: what it asks a fork server for, and when it runs Python instead."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from struct import pack

import pytest

from hack import build_hook
from shim.entry.shimbin import wire
from shim.simgpu.waiting import wait_until
from tests.builds import excuse
from tests.unit import fakes_launcher
from tests.unit.fakes_launcher import Ground, Said, answer, bytewise

STDIN_LIMIT = 4 << 20
# The newest version that a manylinux_2_17 wheel may ask for.
NEWEST_GLIBC = (2, 17)
OTHER_UID = 65534


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the launcher with the compiler's checks of memory and of undefined behaviour."""
    if reason := fakes_launcher.missing():
        excuse(reason)
    return fakes_launcher.build(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def ground(tmp_path: Path, built: Path) -> Ground:
    """Give an installation without a fork server."""
    return Ground(tmp_path, built)


@pytest.mark.parametrize(
    "words",
    ((), ("-v",), ("start",), ("-id", "x", "delete"), ("-info",), ("-id", "start"), ("stop",)),
    ids=" ".join,
)
def test_without_a_fork_server_python_does_it(ground: Ground, words: tuple[str, ...]) -> None:
    """The script has the same arguments, directory and stdin, its status and no more files."""
    assert ground.run(*words, given=b"some\0options").by_script

    seen = ground.seen
    assert seen["words"] == [str(ground.script), *words]
    assert seen["cwd"] == str(ground.folder)
    assert bytes.fromhex(seen["stdin"]) == b"some\0options"
    assert seen["files"] == 3
    assert re.fullmatch(r"launcher-[0-9a-f]{16}", seen["link"])


def test_the_fork_server_gets_everything(ground: Ground) -> None:
    """It is sent how the launcher was started; its texts and status come out."""
    ground.serve(ground.answering(answer(3, b"out\0", b"err\n")))
    ground.environment["ODD"] = "a=b\nc"
    before = os.umask(0o027)
    try:
        said = ground.run("-id", "x", "start", given=b"\0options")
    finally:
        os.umask(before)

    assert said == Said(3, b"out\0", b"err\n")
    (asked,) = ground.calls
    assert asked.words == [str(ground.program), "-id", "x", "start"]
    assert asked.cwd == str(ground.folder)
    assert asked.env == ground.environment
    assert asked.umask == 0o027
    assert asked.namespaces == [
        str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("mnt", "pid")
    ]
    assert asked.given == b"\0options"


def test_delete_reads_no_stdin(ground: Ground) -> None:
    """A stdin that stays open does not hold up `delete`; `-info` reads its own."""
    ground.serve(ground.answering(answer(0)))
    with ground.popen("delete") as running:
        assert running.wait(30) == 0

    assert ground.run("-info", given=b"x") == Said(0, b"", b"")
    assert [asked.given for asked in ground.calls] == [b"", b"x"]


@pytest.mark.parametrize("size", (STDIN_LIMIT, STDIN_LIMIT + 1))
def test_a_large_stdin(ground: Ground, size: int) -> None:
    """As much as Python reads is passed on, to the fork server and, if it fails, to the script."""
    given = os.urandom(size)
    ground.serve(ground.answering())

    assert ground.run("start", given=given).by_script
    assert ground.calls[0].given == given[:STDIN_LIMIT]
    assert bytes.fromhex(ground.seen["stdin"]) == given[:STDIN_LIMIT]


@pytest.mark.parametrize(
    "pieces",
    (
        (),
        (b"CRYO",),
        (b"no shim: invalid request",),
        (wire.RAN_MARK,),
        (wire.RAN_MARK, b"\0" * 11),
        (answer(0, b"address")[:-1],),
        (wire.RAN_MARK + pack(">III", 256, 0, 0),),
        (wire.RAN_MARK + pack(">III", 0, (1 << 20) + 1, 0), b"x" * 100),
        (wire.RAN_MARK + pack(">III", 0, 0, 0xFFFFFFFF), b"x" * 100),
    ),
)
@pytest.mark.parametrize("action", ("start", "delete"))
def test_a_broken_answer(ground: Ground, action: str, pieces: tuple[bytes, ...]) -> None:
    """Whatever is no whole answer makes Python do it; nothing of it is printed."""
    ground.serve(ground.answering(*pieces))

    assert ground.run(action, given=b"x").by_script
    assert bytes.fromhex(ground.seen["stdin"]) == b"x"


@pytest.mark.parametrize("pieces", ((), (wire.RAN_MARK,), (answer(0, b"abc")[:-1],)))
def test_a_fork_server_that_hangs(ground: Ground, pieces: tuple[bytes, ...]) -> None:
    """One that stops anywhere is left at the deadline."""
    ended = threading.Event()

    def reply(peer: socket.socket) -> None:
        ground.answering(*pieces)(peer)
        ended.wait(60)

    ground.serve(reply)
    assert ground.run("delete").by_script
    ended.set()


def test_a_fork_server_that_accepts_nothing(ground: Ground) -> None:
    """A full queue of connections ends in Python too."""
    held = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    listener = socket.socket(socket.AF_UNIX)
    path = ground.folder / "run/server"
    listener.bind(str(path))
    listener.listen(0)
    (ground.folder / "run" / ground.link()).symlink_to("server")
    for each in held:
        each.setblocking(False)
        each.connect_ex(str(path))

    assert ground.run("delete").by_script
    for each in (*held, listener):
        each.close()


def test_a_link_that_leads_nowhere(ground: Ground) -> None:
    """The link of a fork server that has exited, or whose socket is a file, is not followed."""
    link = ground.folder / "run" / ground.link()
    link.symlink_to("gone")
    assert ground.run("delete").by_script
    (ground.folder / "run/gone").touch()
    assert ground.run("delete").by_script


def test_the_fork_server_of_another_user(ground: Ground) -> None:
    """A listener of another user is not sent anything."""
    if os.geteuid():
        pytest.skip("only root can be another user")
    run = ground.folder / "run"
    run.chmod(0o777)
    program = (
        f"import os, socket; os.setuid({OTHER_UID}); s = socket.socket(socket.AF_UNIX); "
        "s.bind('server'); s.listen(); "
        "print(flush=True); p, _ = s.accept(); print(p.recv(1), flush=True)"
    )
    argv = [sys.executable, "-S", "-c", program]
    with subprocess.Popen(argv, cwd=run, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (run / ground.link()).symlink_to("server")
        (run / "server").chmod(0o777)
        assert ground.run("delete").by_script
        assert other.stdout.readline() == b"b''\n"


def test_an_answer_in_small_pieces(ground: Ground) -> None:
    """Each piece may come alone."""
    ground.serve(ground.answering(*bytewise(answer(0, b"unix:///address", b"warning"))))

    assert ground.run("start") == Said(0, b"unix:///address", b"warning")


def test_a_long_answer_to_a_slow_reader(ground: Ground) -> None:
    """All of it is written, however little a pipe takes."""
    out = os.urandom(1 << 20)
    ground.serve(ground.answering(answer(0, out)))
    with ground.popen("start", stdin=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        assert running.stdout.read() == out
    assert running.returncode == 0


def test_an_answer_without_a_reader(ground: Ground) -> None:
    """A closed pipe is status 1, and no signal ends the launcher."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    ground.serve(ground.answering(answer(0, b"address")))
    with ground.popen("start", stdin=subprocess.DEVNULL, stdout=write_end) as running:
        os.close(write_end)
        assert running.wait(30) == 1


def test_it_may_be_stopped_and_continued(ground: Ground) -> None:
    """A signal that interrupts the wait for an answer changes nothing."""
    asked, go = threading.Event(), threading.Event()

    def reply(peer: socket.socket) -> None:
        ground.receive(peer)
        asked.set()
        go.wait(60)
        peer.sendall(answer(0, b"address"))

    ground.serve(reply)
    with ground.popen("start", stdin=subprocess.DEVNULL) as running:
        asked.wait(60)
        running.send_signal(signal.SIGSTOP)
        wait_until(lambda: _state(running.pid) == "T", "a stop", 20)
        running.send_signal(signal.SIGCONT)
        go.set()
        assert running.communicate(timeout=30)[0] == b"address"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]


@pytest.mark.parametrize("closed", ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"))
def test_closed_streams(ground: Ground, closed: str) -> None:
    """A closed stream is as good as an empty one; no socket takes its place."""
    ground.serve(ground.answering(answer(5, b"out", b"err")))

    said = ground.shell(f'"$0" start {closed}')

    assert said.status == 5
    assert said.out == (b"" if ">&- 2" in closed or closed == ">&-" else b"out")
    assert ground.calls[0].given == b""


def test_what_the_link_depends_on(ground: Ground) -> None:
    """An installation, a config file and Python's variables have a link of their own."""
    usual = ground.link()
    assert ground.link(OTHER="x") == usual
    changed = {ground.link(CRYO_CONFIG="/a"), ground.link(PYTHONPATH="/a"), ground.link(HOME="/b")}
    assert len(changed) == 3
    assert usual in changed

    replaced = ground.script.with_suffix(".new")
    replaced.write_text(ground.script.read_text("utf-8"), "utf-8")
    replaced.chmod(0o755)
    replaced.replace(ground.script)
    assert ground.link() != usual


def test_a_link_of_the_environment_is_ignored(ground: Ground) -> None:
    """The variable is for the script only."""
    usual = ground.link()
    assert ground.link(CRYO_LAUNCHER_LINK="launcher-0000000000000000") == usual


@pytest.mark.parametrize("where", ("link", "PATH"))
def test_it_finds_its_script(ground: Ground, where: str) -> None:
    """Through a symbolic link it finds the script beside the program, as a copy on PATH."""
    other = ground.folder / "other"
    other.mkdir()
    program = other / ground.program.name
    if where == "link":
        program.symlink_to(ground.program)
    else:
        program.write_bytes(ground.program.read_bytes())
        program.chmod(0o755)
        ground.environment["PATH"] = f"/nonexistent::{'x' * 5000}:{ground.program.parent}:/bin"
    ground.program = program

    assert ground.run("delete").by_script


def test_without_its_script_it_says_so(ground: Ground) -> None:
    """There is nothing else that could do the work."""
    ground.script.unlink()

    said = ground.run("start")

    assert (said.status, said.out) == (127, b"")
    assert b"containerd-shim-cryo-v1-python" in said.err


def test_a_script_that_cannot_run(ground: Ground) -> None:
    """The message has its path and the reason."""
    ground.script.write_text("#!/nonexistent/python\n", "utf-8")

    said = ground.run("delete")

    assert said.status == 126
    assert str(ground.script).encode() in said.err
    assert b"No such file" in said.err


@pytest.fixture
def linked_dynamically(tmp_path: Path) -> Path:
    """Build the launcher as where the C library cannot be linked statically."""
    if reason := fakes_launcher.missing():
        excuse(reason)
    target = tmp_path / "entry/shimbin/bin" / build_hook.SHIM
    folder = fakes_launcher.ROOT / "native"
    argv = ["make", "-s", "-C", str(folder), f"OUT={tmp_path}", "STATIC=--no-such-option"]
    subprocess.run([*argv, str(target)], check=True, timeout=120)
    return target


def test_old_hosts_can_run_it(linked_dynamically: Path) -> None:
    """It asks for no symbol that is newer than what the wheel's tag promises."""
    found = re.findall(rb"GLIBC_(\d+)\.(\d+)", linked_dynamically.read_bytes())

    assert found
    assert max((int(major), int(minor)) for major, minor in found) <= NEWEST_GLIBC


FLAGS = ("-namespace", "ns", "-address=/c.sock", "-publish-binary", "/bin/true", "-id", "x")


@pytest.fixture
def bundle(ground: Ground) -> Path:
    """Give the bundle of a task that was deleted: its shim's socket and its link are gone."""
    folder = ground.folder / "bundle"
    folder.mkdir()
    (folder / "address").write_text(f"unix://{folder}/socket", "ascii")
    return folder


@pytest.mark.parametrize(
    "form", (("-bundle", "bundle"), ("--bundle=bundle", "-debug")), ids=" ".join
)
def test_delete_with_nothing_to_do(ground: Ground, bundle: Path, form: tuple[str, ...]) -> None:
    """The launcher answers by itself what Python would: nothing; a pipe as stdin may stay open."""
    assert bundle.is_dir()
    with ground.popen(*FLAGS, *form, "delete") as running:
        assert running.wait(30) == 0
        assert running.stdout is not None
        assert running.stdout.read() == b""
    assert not (ground.folder / "seen.json").exists()


def test_delete_in_the_bundle(ground: Ground) -> None:
    """Without a flag the bundle is the working directory."""
    (ground.folder / "address").write_text(f"unix://{ground.folder}/socket", "ascii")

    assert ground.run(*FLAGS, "delete") == Said(0, b"", b"")


@pytest.mark.parametrize("left", ("cryo", "socket"))
@pytest.mark.parametrize("kind", ("file", "link"))
def test_delete_with_something_left(ground: Ground, bundle: Path, left: str, kind: str) -> None:
    """Whatever has the name of the link or of the socket is looked at by Python."""
    if kind == "link":
        (bundle / left).symlink_to("nowhere")
    else:
        (bundle / left).touch()

    assert ground.run(*FLAGS, "-bundle", str(bundle), "delete").by_script


@pytest.mark.parametrize(
    "text",
    (b"", b"/socket", b"unix://socket", b"unix:///a\nb", b"unix:///\xff", b"unix:///a\0b",
     b"unix:///" + b"x" * 5000),
    ids=("empty", "path", "relative", "line", "byte", "nul", "long"),
)  # fmt: skip
def test_delete_with_an_odd_address(ground: Ground, bundle: Path, text: bytes) -> None:
    """An address that `start` does not write is left to Python."""
    (bundle / "address").write_bytes(text)

    assert ground.run(*FLAGS, "-bundle", str(bundle), "delete").by_script


@pytest.mark.parametrize("kind", ("nothing", "fifo", "folder", "link"))
def test_delete_without_a_file_of_the_address(ground: Ground, bundle: Path, kind: str) -> None:
    """Without a regular file it waits for nothing, and leaves it to Python."""
    file = bundle / "address"
    file.rename(bundle / "other")
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link":
        file.symlink_to("other")

    assert ground.run(*FLAGS, "-bundle", str(bundle), "delete").by_script


@pytest.mark.parametrize(
    "words",
    (("-v",), ("-info",), ("-info=x",), ("-odd", "1"), ("-debug=1",), ("start",), ("-bundle",),
     ("",)),
    ids=" ".join,
)  # fmt: skip
def test_delete_with_other_words(ground: Ground, bundle: Path, words: tuple[str, ...]) -> None:
    """Any flag that containerd does not give `delete`, and any other form, is left to Python."""
    assert ground.run(*FLAGS, "-bundle", str(bundle), *words, "delete").by_script
