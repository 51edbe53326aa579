"""The tasks of a node's sidecar, whether it runs or not: from its records and its supervisor."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

from hack.kubernetes.node.paths import Node, read
from hack.kubernetes.node.users import Kind, User, children
from shim.config import Paths
from shim.host import pid_identity
from shim.task import record
from shim.task.layout import Layout


def running(node: Node, users: Collection[User]) -> list[str]:
    """Return the names of the tasks with a process, with their namespaces.

    A process of the supervisor that no record names, such as that of a task that is being created,
    is given as such.

    Raises:
        CryoError: a record cannot be read.
    """
    return list(_recorded(node)) or [f"process {pid}" for pid in _supervised(users)]


def _recorded(node: Node) -> Iterator[str]:
    layout = Layout(node.at(Path("/") / _state(node)))
    for ref in layout.found():
        found = record.load_for_cleanup(layout.task(ref))
        if found is None:
            continue
        known = ((found.pid, found.start), (found.creator_pid, found.creator_start))
        if any(pid and pid_identity.is_alive(pid, start) for pid, start in known):
            yield f"{ref.id} in namespace {ref.namespace}"


def _state(node: Node) -> Path:
    """Return the sidecar's state directory; other settings may be those of another version."""
    try:
        found = tomllib.loads(read(node.at(node.settings)) or "")
    except tomllib.TOMLDecodeError:
        found = {}
    return Path(found.get("paths", {}).get("state", Paths().state))


def _supervised(users: Collection[User]) -> list[int]:
    supervisors = [user.pid for user in users if user.kind is Kind.SUPERVISOR]
    tasks = [user.pid for user in users if user.kind is Kind.TASK]
    return sorted({pid for each in supervisors for pid in children(each)} | set(tasks))
