"""What a container does before a freeze and after a thaw or restore: annotations `io.cryo.hook.*`.

    io.cryo.hook.pre-freeze: http://:8000/sleep?level=1
    io.cryo.hook.post-thaw: exec /bin/sh -c 'wake && log woken'
    io.cryo.hook.timeout: 30

A kubelet passes the annotations of a pod to each of its containers. There the name of a container
may follow, as in `io.cryo.hook.post-thaw.web`.
"""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Mapping

import msgspec

from shim.errors import InvalidArgument
from shim.model import Value
from shim.oci.document import Spec

PREFIX = "io.cryo.hook."
_TIMEOUT = "timeout"
_TIMEOUT_S = 30.0
_TIMEOUT_MAX_S = 3600.0
_TEXT_MAX = 4096
_PORT_MAX = 65535
# A name of a container in Kubernetes: a DNS label.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_EXEC = "exec "
_URL = re.compile(r"http://(?:127\.0\.0\.1|localhost)?:([0-9]{1,5})((?:/[!-~]*)?)")


class AppHookKind(enum.StrEnum):
    """When a hook runs."""

    PRE_FREEZE = "pre-freeze"
    POST_THAW = "post-thaw"
    POST_RESTORE = "post-restore"


class Command(Value):
    """A program to run in the container."""

    argv: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as in the annotation."""
        return _EXEC + shlex.join(self.argv)


class Url(Value):
    """A request to the loopback of the container."""

    port: int
    target: str

    def __str__(self) -> str:
        """Return it as in the annotation."""
        return f"http://:{self.port}{self.target}"


Action = Command | Url


class AppHooks(Value):
    """The hooks in the annotations of one container; by name those of other containers."""

    own: dict[AppHookKind, Action] = {}
    named: dict[tuple[AppHookKind, str], Action] = {}
    timeout_s: float = _TIMEOUT_S

    @property
    def kinds(self) -> set[AppHookKind]:
        """Return the kinds of which there is a hook."""
        return {*self.own, *(kind for kind, _ in self.named)}


def read_app_hooks(spec: Spec) -> AppHooks:
    """Read the hooks of a container.

    Raises:
        InvalidArgument: an annotation is unknown or its value is not valid.
    """
    said = spec.annotations
    return parse({name: said[name] for name in sorted(said) if name.startswith(PREFIX)})


def parse(annotations: Mapping[str, str]) -> AppHooks:
    """Parse annotations with the prefix.

    Raises:
        InvalidArgument: one is unknown or its value is not valid.
    """
    hooks = AppHooks()
    for name, text in annotations.items():
        kind, dot, container = name.removeprefix(PREFIX).partition(".")
        if kind == _TIMEOUT and not dot:
            hooks = msgspec.structs.replace(hooks, timeout_s=_seconds(name, text))
        elif kind not in frozenset(AppHookKind) or (dot and not _NAME.fullmatch(container)):
            known = ", ".join(PREFIX + each for each in (*AppHookKind, _TIMEOUT))
            message = f"the annotation {name} is unknown"
            remedy = f"use only {known}; a name of a container may follow"
            raise InvalidArgument(message, remedy=remedy)
        elif dot:
            key = (AppHookKind(kind), container)
            hooks = msgspec.structs.replace(hooks, named={**hooks.named, key: _action(name, text)})
        else:
            own = {**hooks.own, AppHookKind(kind): _action(name, text)}
            hooks = msgspec.structs.replace(hooks, own=own)
    return hooks


def parse_action(text: str) -> Action:
    """Parse `exec COMMAND`, split as a shell does, or `http://:PORT/PATH`.

    Raises:
        ValueError: it is neither; the message says why.
    """
    if len(text) > _TEXT_MAX:
        message = f"it is longer than {_TEXT_MAX} characters"
        raise ValueError(message)
    if text.startswith(_EXEC):
        argv = tuple(shlex.split(text.removeprefix(_EXEC)))
        if not argv or not argv[0]:
            message = "it names no program"
            raise ValueError(message)
        return Command(argv=argv)
    found = _URL.fullmatch(text)
    if found is None:
        message = "it is neither exec COMMAND nor http://:PORT/PATH"
        raise ValueError(message)
    return Url(port=parse_port(found.group(1)), target=found.group(2) or "/")


def parse_port(digits: str) -> int:
    """Parse the number of a TCP port.

    Raises:
        ValueError: it is none.
    """
    port = int(digits)
    if not 0 < port <= _PORT_MAX:
        message = f"{port} is not a TCP port"
        raise ValueError(message)
    return port


def _action(name: str, text: str) -> Action:
    try:
        return parse_action(text)
    except ValueError as error:
        message = f"the annotation {name} is not valid: {error}"
        remedy = "write exec COMMAND or http://:PORT/PATH"
        raise InvalidArgument(message, remedy=remedy) from error


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if 0 < seconds <= _TIMEOUT_MAX_S:
        return seconds
    message = f"the annotation {name} is not a number of seconds up to {_TIMEOUT_MAX_S:g}"
    raise InvalidArgument(message, remedy=f"leave it out for {_TIMEOUT_S:g} seconds")
