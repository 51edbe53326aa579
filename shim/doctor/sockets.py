"""Checks the sidecar's socket: who can connect, who could replace it, and whether it answers."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shim.doctor.host import Host
from shim.errors import CryoError
from shim.finding import Area, Finding, Topic
from shim.host import trusted, unix_socket

_SOCKET = Topic(Area.SOCKETS, "sidecar")
_GROUP = Topic(Area.SOCKETS, "server.group")
_CONTAINERD = Topic(Area.SOCKETS, "server.containerd")
_OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IXOTH


def check(host: Host) -> Iterator[Finding]:
    """Check the sidecar's socket, its group, and the events' socket of containerd."""
    group = host.config.server.group
    if group and _group_id(group) is None:
        yield _GROUP.failure(
            f"there is no group {group!r}, and cryo serve does not start",
            f"groupadd {group}, or correct group under [server]",
        )
    if host.socket is not None:
        yield from _sidecar(host.socket, _group_id(group) if group else None)
    events = host.config.server.containerd
    if events and not unix_socket.listens(events):
        yield _CONTAINERD.warning(
            f"{events} does not answer: events of tasks do not reach containerd",
            "start containerd, or correct containerd under [server]",
        )


def _sidecar(path: Path, gid: int | None) -> Iterator[Finding]:
    try:
        trusted.check(path.parent)
    except CryoError as error:
        yield _SOCKET.failure(error.message, error.remedy)
        return
    try:
        found = path.lstat()
    except FileNotFoundError:
        yield _SOCKET.ok(f"not running: there is no {path}")
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield _SOCKET.failure(
            f"{path} is not a socket, and cryo serve does not start",
            "remove it, or choose another address under [server]",
        )
        return
    yield from list(_rights(path, found, gid)) or _life(path)


def _rights(path: Path, found: os.stat_result, gid: int | None) -> Iterator[Finding]:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in {0, os.geteuid()}:
        yield _SOCKET.failure(
            f"{path} belongs to user {found.st_uid}, who receives what is meant for the sidecar",
            "stop that process and remove the socket",
        )
    if mode & _OTHERS:
        yield _SOCKET.failure(
            f"{path} has mode {mode:04o}: every user controls all tasks",
            "restart cryo serve, which sets 0600, or 0660 with a group",
        )
    if gid is not None and (found.st_gid != gid or not mode & stat.S_IWGRP):
        yield _SOCKET.warning(
            f"{path} is not open to the configured group",
            "restart cryo serve after a change of group under [server]",
        )


def _life(path: Path) -> Iterator[Finding]:
    if unix_socket.listens(str(path)):
        yield _SOCKET.ok(f"running, at {path}")
    else:
        yield _SOCKET.warning(
            f"{path} is there, and no sidecar answers: it was killed",
            "start cryo serve: it recovers the tasks, and replaces the socket",
        )


def _group_id(group: str) -> int | None:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None
