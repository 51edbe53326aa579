"""The fork server and the code that it has loaded: it forks no shim of old code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shim.entry.shimbin import forkserver_client, paths
from shim.entry.shimbin import loaded as loaded_files
from shim.entry.shimbin.forkserver_client import Starter
from shim.entry.shimbin.loaded import Loaded
from tests.unit.helpers_forkserver import a_forkserver


def test_a_change_of_a_loaded_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that was written again or removed since it was loaded is seen."""
    file = tmp_path / "a_module_of_the_test.py"
    file.write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loaded_files, "_began_ns", time.time_ns)
    before = Loaded()
    __import__(file.stem)
    loaded = Loaded()
    before.look()
    assert len(before) == len(loaded)
    assert not loaded.changed

    file.write_text("x = 22\n")

    assert loaded.changed
    assert before.changed
    file.unlink()
    assert loaded.changed
    del sys.modules[file.stem]


def test_a_file_that_changed_while_it_was_loaded_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade that ran while a fork server started may have given it half of the old code."""
    file = tmp_path / "a_module_that_is_upgraded.py"
    file.write_text("x = 1\n")
    os.utime(file, (0, 0))  # as an installer that keeps the times of the package
    monkeypatch.syspath_prepend(tmp_path)
    # Not the sources of this package, which may have been edited a moment ago.
    monkeypatch.setattr(loaded_files, "_is_ours", lambda path: path == str(file))
    __import__(file.stem)
    try:
        assert Loaded().changed, "it was written since this process was started"
        with monkeypatch.context() as later:
            later.setattr(loaded_files, "_began_ns", time.time_ns)
            assert not Loaded().changed
        # A clock that was put back: a restart would help nothing.
        past = file.stat().st_ctime_ns - 10**9
        monkeypatch.setattr(time, "time_ns", lambda: past)
        assert not Loaded().changed
    finally:
        del sys.modules[file.stem]


def test_a_process_begins_before_it_loads_its_code() -> None:
    """The start of a process is known to some hundredths of a second."""
    script = (
        "import time; now = time.time_ns(); from shim.entry.shimbin import loaded; "
        "print(loaded._began_ns() <= time.time_ns(), loaded._began_ns() > now - 60 * 10**9)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert said.stdout == b"True True\n"


def test_start_tries_again_while_fork_servers_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade changes files more than once, and each change may end another fork server."""
    answers = [b"", b"", b"", b"17", b"18"]
    monkeypatch.setattr(forkserver_client, "_call", lambda *_: answers.pop(0))
    Starter().start([], "/a/socket", 0, "/a.toml")
    assert answers == [b"18"]

    answers[:] = [b"no shim: a reason"]
    with pytest.raises(OSError, match="no shim: a reason"):
        Starter().start([], "/a/socket", 0, "/a.toml")
    answers[:] = [b""] * 5
    with pytest.raises(OSError, match="did not reply"):
        Starter().start([], "/a/socket", 0, "/a.toml")


def test_each_installation_has_a_fork_server_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is named by the package's path, the interpreter and the config file."""
    found = {paths.forkserver_socket(paths.default_config())}
    monkeypatch.setattr(paths, "__file__", "/elsewhere/paths.py")
    found.add(paths.forkserver_socket(paths.default_config()))
    monkeypatch.setattr(sys, "prefix", "/other/venv")
    found.add(paths.forkserver_socket(paths.default_config()))
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    found.add(paths.forkserver_socket(paths.default_config()))
    monkeypatch.setenv("CRYO_CONFIG", "/other.toml")
    found.add(paths.forkserver_socket(paths.default_config()))

    assert len(found) == 5


def asked(path: Path) -> bytes:
    """Ask for nothing that could be a shim; return the answer."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        peer.connect(str(path))
        try:
            peer.sendall(b"nonsense")
            peer.shutdown(socket.SHUT_WR)
            return peer.recv(1000)
        except ConnectionError:
            return b""


def test_a_fork_server_of_old_code_serves_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a file of its package has changed, it answers no start, and its socket is removed."""
    monkeypatch.chdir(tmp_path)
    with a_forkserver(tmp_path) as (path, pid):
        assert asked(path).startswith(b"no shim: ")
        changed = tmp_path / "shim" / "task" / "tasks.py"
        changed.write_text(f"{changed.read_text()}\n")

        assert asked(path) == b""
        assert not path.exists()
        # It is not collected yet: it has nothing to stay for.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
