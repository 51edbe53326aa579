"""What the tests of the client of registries share."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from shim.distribution import media
from shim.distribution.blob import Descriptor, digest_of
from shim.distribution.http_options import HttpOptions
from shim.distribution.reference import RegistryRef
from shim.distribution.registry import Registry
from tests.sites import Site

# No credentials of the user who runs the tests.
NOWHERE = "/nonexistent/config.json"
OPTIONS = HttpOptions(docker_config=NOWHERE, backoff_s=0.001, attempts=3)
CONTENT = bytes(range(256)) * 4096


def described(content: bytes) -> Descriptor:
    """Return the descriptor of a blob."""
    return Descriptor(media_type=media.CHUNK, digest=digest_of(content), size=len(content))


BLOB = described(CONTENT)


def options(**more: Any) -> HttpOptions:
    """Return options for tests: short waits, and no credentials."""
    return msgspec.structs.replace(OPTIONS, **more)


@contextlib.contextmanager
def registry_at(site: Site | str, chosen: HttpOptions = OPTIONS) -> Iterator[Registry]:
    """Give the registry of a site, or of a host, as a place."""
    host = site if isinstance(site, str) else site.host
    registry = Registry(RegistryRef(host=host, repository="snap/llama"), chosen)
    try:
        yield registry
    finally:
        registry.close()


def put(registry: Registry, content: bytes = CONTENT) -> Descriptor:
    """Store a blob."""
    descriptor = described(content)
    registry.put_blob(descriptor, io.BytesIO(content))
    return descriptor


def write_config(folder: Path, host: str, **entry: str) -> str:
    """Write a file of credentials for one registry; return its path."""
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {host: entry}}), "utf-8")
    return str(path)
