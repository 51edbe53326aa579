"""The credentials of a registry: from the files of Docker or Podman, and credential helpers."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from shim.distribution import credential_helper, docker_config
from shim.distribution.docker_config import DockerConfig, Entry
from shim.distribution.endpoint import Endpoint
from shim.distribution.http_options import HttpOptions
from shim.errors import InvalidArgument
from shim.model import Value

# The user name that marks a secret as an identity token.
_TOKEN_USER = "<token>"  # noqa: S105 - a mark, not a secret
_HIDDEN = "[hidden]"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB = "docker.io"


class Credentials(Value):
    """A user with a password, or an identity token; `source` is the file that they are from."""

    source: str
    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __repr__(self) -> str:
        """Return no secret."""
        return f"Credentials(source={self.source!r})"

    @property
    def basic(self) -> str:
        """Return the value of an Authorization header."""
        plain = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(plain).decode('ascii')}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """List what no message may have."""
        encoded = self.basic.removeprefix("Basic ")
        return tuple(filter(None, (self.password, self.identity_token, encoded)))


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Return a text of a server without the secrets that it was sent."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text


def find(
    endpoint: Endpoint, options: HttpOptions, environ: Mapping[str, str] = os.environ
) -> Credentials | None:
    """Return the credentials of a registry, None if no file has any.

    Raises:
        FailedPrecondition: a credential helper failed; see `credential_helper.ask`.
        InvalidArgument: a file is malformed.
    """
    for path in docker_config.paths(options.docker_config, environ):
        config = docker_config.load(path)
        if config is None:
            continue
        found = _of_file(config, path, endpoint, options.helper_s)
        if found is not None:
            return found
    return None


def looked_into(options: HttpOptions, environ: Mapping[str, str] = os.environ) -> str:
    """Return the files that `find` reads, for messages."""
    return ", ".join(map(str, docker_config.paths(options.docker_config, environ)))


def _of_file(
    config: DockerConfig, path: Path, endpoint: Endpoint, timeout_s: float
) -> Credentials | None:
    keys = list(_keys(endpoint))
    for key in keys:
        if helper := config.helpers.get(key):
            return _from_helper(helper, key, path, timeout_s)
    if config.store:
        key = _HUB_KEY if endpoint.login == _HUB else endpoint.login
        found = _from_helper(config.store, key, path, timeout_s)
        if found is not None:
            return found
    for key in keys:
        if key in config.auths:
            found = _from_entry(config.auths[key], path, key)
            if found is not None:
                return found
    return None


def _keys(endpoint: Endpoint) -> Iterator[str]:
    """Yield the names that a file may have for a registry, the most specific first."""
    parts = endpoint.repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join((endpoint.login, *parts[:count]))
    if endpoint.login == _HUB:
        yield _HUB_KEY
    yield endpoint.login
    for scheme in ("https", "http"):
        for end in ("", "/", "/v1/", "/v2/"):
            yield f"{scheme}://{endpoint.login}{end}"


def _from_helper(name: str, key: str, path: Path, timeout_s: float) -> Credentials | None:
    answer = credential_helper.ask(name, key, timeout_s)
    if answer is None:
        return None
    source = f"docker-credential-{name}, which {path} names"
    if answer.username == _TOKEN_USER:
        return Credentials(source=source, identity_token=answer.secret)
    return Credentials(source=source, username=answer.username, password=answer.secret)


def _from_entry(entry: Entry, path: Path, key: str) -> Credentials | None:
    username, password = entry.username, entry.password
    if entry.auth:
        username, password = _decoded(entry.auth, path, key)
    if entry.identitytoken:
        return Credentials(source=str(path), username=username, identity_token=entry.identitytoken)
    if not username:
        return None
    return Credentials(source=str(path), username=username, password=password)


def _decoded(auth: str, path: Path, key: str) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        message = f"{path}: what it has for {key} is not a user and a password in base64"
        raise InvalidArgument(message, remedy="use `docker login` again")
    # Docker ends it with a NUL where it was padded.
    return user, password.rstrip("\0")
