"""The files in which Docker and Podman keep credentials of registries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shim.errors import InvalidArgument, NotFound
from shim.host.files import read_bounded
from shim.model import Value

_MAX_BYTES = 1 << 20


class Entry(Value):
    """What a file has for one registry."""

    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""

    def __repr__(self) -> str:
        """Return no secret."""
        return "Entry()"


class DockerConfig(Value, rename={"helpers": "credHelpers", "store": "credsStore"}):
    """The parts of a file that are about credentials."""

    auths: dict[str, Entry] = {}
    helpers: dict[str, str] = {}
    store: str = ""


def paths(given: str | None, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the files that may have credentials, the first first."""
    if given is not None:
        return [Path(given)]
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - it does not fail without a home
    docker = environ.get("DOCKER_CONFIG")
    found = [(Path(docker) if docker else home / ".docker") / "config.json"]
    if podman := environ.get("REGISTRY_AUTH_FILE"):
        return [*found, Path(podman)]
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    config = environ.get("XDG_CONFIG_HOME")
    folders = (Path(runtime), Path(config) if config else home / ".config")
    return [*found, *(folder / "containers" / "auth.json" for folder in folders)]


def load(path: Path) -> DockerConfig | None:
    """Return what a file has, or None if there is none.

    Raises:
        InvalidArgument: it is not such a file; the error has nothing of its content.
    """
    try:
        data = read_bounded(path, _MAX_BYTES, nofollow=False)
    except NotFound:
        return None
    try:
        return msgspec.json.decode(data or b"{}", type=DockerConfig)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        message = f"{path} is not a file of credentials as `docker login` writes it"
        raise InvalidArgument(message, remedy="correct it, or name another one") from None
