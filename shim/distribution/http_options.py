"""How the client of registries connects, waits and repeats. Times are in seconds."""

from __future__ import annotations

from shim.model import Value


class HttpOptions(Value):
    """Options of the client.

    `docker_config` is a file of credentials, in place of those that Docker and Podman use.
    `connect_s` bounds a connection, `answer_s` each wait for more bytes, and `least_bytes_per_s`
    the whole of a request, so that a server that sends a byte at a time does not hold it.
    """

    plain_http: bool = False
    ca_file: str | None = None
    docker_config: str | None = None
    connect_s: float = 15.0
    answer_s: float = 120.0
    least_bytes_per_s: int = 16 << 10
    attempts: int = 5
    backoff_s: float = 0.5
    # The longest that the client waits because a server asks for it (Retry-After).
    patience_s: float = 60.0
    helper_s: float = 30.0

    def deadline_s(self, size_bytes: int = 0) -> float:
        """Return how long a request may take in all that moves so many bytes."""
        return self.connect_s + self.answer_s + size_bytes / self.least_bytes_per_s
