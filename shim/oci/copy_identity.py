"""What distinguishes a restored copy from the others of its image.

runsc accepts a spec that differs from the saved one in these. Pure.
"""

from __future__ import annotations

import re
from typing import Any

from shim.errors import InvalidArgument
from shim.model import Value
from shim.oci import document, pod
from shim.oci.annotations import read_annotations
from shim.oci.document import Spec
from shim.oci.edits import Edits, apply

# As sethostname(2) accepts it, and DNS names are written.
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[^=\0]+=[^\0]*", re.DOTALL)
_SHOWN = 80


class CopyIdentity(Value):
    """A hostname, the path of a network namespace, and lines NAME=value; empty keeps the spec's.

    `cgroup` is added to the name of the spec's cgroup, whose limits are those of one container.

    Raises:
        InvalidArgument: one is not valid.
    """

    hostname: str = ""
    netns: str = ""
    env: tuple[str, ...] = ()
    cgroup: str = ""

    def __post_init__(self) -> None:
        """Check each value; an environment may have secrets, and is not repeated in messages."""
        if self.hostname and not _HOSTNAME.fullmatch(self.hostname):
            message = f"hostname {self.hostname[:_SHOWN]!r} is not valid"
            raise InvalidArgument(message, remedy="use at most 64 letters, digits, '-', '.', '_'")
        if self.netns and not self.netns.startswith("/"):
            message = f"network namespace {self.netns[:_SHOWN]!r} is not an absolute path"
            raise InvalidArgument(message, remedy="name it as in /run/netns/NAME")
        for number, line in enumerate(self.env, 1):
            if not _VARIABLE.fullmatch(line):
                message = f"line {number} of the environment is not NAME=value"
                raise InvalidArgument(message, remedy="write NAME=value, without NUL")

    def given_to(self, spec: Spec) -> Spec:
        """Return the spec with these values.

        Raises:
            InvalidArgument: the container has no network namespace, or cannot read an environment.
        """
        data, linux = dict(spec.data), dict(spec.data.get("linux") or {})
        if self.hostname:
            data["hostname"] = self.hostname
        if self.netns:
            linux["namespaces"] = self._namespaces(spec)
        if self.cgroup and spec.cgroups_path:
            linux["cgroupsPath"] = f"{spec.cgroups_path}-{self.cgroup}"
        if linux != (spec.data.get("linux") or {}):
            data["linux"] = linux
        if data != spec.data:
            spec = document.parse(data, spec.bundle, restoring=True)
        return self._with_env(spec)

    def _namespaces(self, spec: Spec) -> list[Any]:
        if not spec.has_network_namespace:
            message = "the container uses the network of the host, and cannot get another one"
            remedy = "leave out the network namespace, or save a container that has its own"
            raise InvalidArgument(message, remedy=remedy)
        return [
            {**one, "path": self.netns} if one.get("type") == "network" else one
            for one in spec.data["linux"]["namespaces"]
        ]

    def _with_env(self, spec: Spec) -> Spec:
        """Return the spec with the environment, which it passes on through io.cryo.instance."""
        if not self.env:
            return spec
        if read_annotations(spec).wants_instance:
            return apply(spec, Edits(env=self.env))
        if pod.is_sandbox(spec) or pod.sandbox_of(spec):
            return spec  # for another container of the pod
        message = "a restored process keeps its environment, and cannot read another one"
        raise InvalidArgument(
            message,
            remedy="create the container with io.cryo.instance=true, which gives it "
            "/run/cryo/instance/environ, or leave out the environment",
        )
