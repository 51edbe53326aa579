"""The root filesystems of servers that `make tools` makes."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from hack.tools import servers
from hack.tools.cache import scratch
from hack.tools.running import NotHere
from hack.tools.tool import Choice, Tool


def test_the_archive_is_a_root_filesystem(tmp_path: Path) -> None:
    """It has a shell and users, belongs to root, and has no documentation."""

    def make(tool: Tool, cache: Path) -> Choice:
        with scratch(cache) as work:
            for name in ("bin/busybox", "usr/share/doc/x/copyright", "usr/lib/jvm/x/jmods/y"):
                path = work / "root" / name
                path.parent.mkdir(parents=True)
                path.write_bytes(b"")
            return servers.pack(tool, cache, work, "a test")

    choice = make(Tool("server-x", "1", (servers.ARCHIVE,), (make,)), tmp_path)

    with tarfile.open(choice.path) as archive:
        entries = {entry.name.removeprefix("./"): entry for entry in archive}
    assert entries["bin/sh"].linkname == "busybox"
    assert entries["tmp"].mode == 0o1777
    assert {"etc/passwd", "bin/busybox", "usr/share", "usr/lib/jvm/x"} <= set(entries)
    assert not {"usr/share/doc", "usr/lib/jvm/x/jmods"} & set(entries)
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}


def test_another_version_of_a_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite's version must be of the line that the tool names."""

    def downloaded(_cache: Path, work: Path, _packages: object) -> list[Path]:
        return [work / "libc6_2.36_amd64.deb", work / "redis-server_5%3a8.0.1_amd64.deb"]

    monkeypatch.setattr(servers, "download", downloaded)
    make = servers.from_packages("7.0.", ("redis-server",), "")

    with pytest.raises(NotHere, match=r"its redis-server is 8.0.1, not 7.0"):
        make(servers.MORE[0], tmp_path)
