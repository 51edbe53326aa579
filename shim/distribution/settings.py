"""How a transfer reaches a place, and how it reads what is there."""

from __future__ import annotations

from shim.distribution.compress import JOBS, Compress
from shim.distribution.key_sources import KeySources
from shim.errors import InvalidArgument
from shim.model import Value

_MAX_JOBS = 64


class TransferSettings(Value):
    """Settings of one push or pull. Files are given by absolute paths.

    `ca_file` is trusted besides the certificates of the system, and `docker_config` replaces the
    files with the credentials of registries. `object_store` has variables AWS_*; without any,
    those of the process's environment are used. `jobs` blobs are transferred at once.
    """

    plain_http: bool = False
    ca_file: str | None = None
    docker_config: str | None = None
    object_store: dict[str, str] = {}
    jobs: int = JOBS
    compress: Compress = Compress.AUTO
    keys: KeySources = KeySources()

    def __post_init__(self) -> None:
        """Reject what no transfer can use.

        Raises:
            InvalidArgument: a path is relative, or there are too many jobs or none.
        """
        if not 1 <= self.jobs <= _MAX_JOBS:
            message = f"{self.jobs} blobs cannot be transferred at once"
            raise InvalidArgument(message, remedy=f"use 1 to {_MAX_JOBS}")
        for path in (self.ca_file, self.docker_config, self.keys.key_file, *self.keys.identities):
            if path is not None and not path.startswith("/"):
                message = f"{path!r} is not an absolute path"
                raise InvalidArgument(message, remedy="use an absolute path")
