"""An HTTP server with a cache that its hooks drop before a checkpoint, as an inference server does.

    python3 cache_server.py PORT MEBIBYTES

    io.cryo.hook.pre-freeze: http://:PORT/sleep
    io.cryo.hook.post-thaw: http://:PORT/wake_up
    io.cryo.hook.post-restore: http://:PORT/wake_up

`/sleep` drops the cache and `/wake_up` fills it again; any GET is answered with its size in bytes
and how often it was filled. `docs/hooks.md` names what vLLM and SGLang have in their place.
"""

from __future__ import annotations

import mmap
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

_MIB = 1 << 20


class Cache:
    """Memory of its own mapping, so that dropping it returns it to the kernel."""

    def __init__(self, mebibytes: int) -> None:
        self._mebibytes = mebibytes
        self._memory: mmap.mmap | None = None
        self.fills = 0

    def fill(self) -> None:
        """Fill it, unless it is full: `/wake_up` may come without a `/sleep` before it."""
        if self._memory is not None:
            return
        self._memory = mmap.mmap(-1, self._mebibytes * _MIB)
        for _ in range(self._mebibytes):
            self._memory.write(os.urandom(_MIB))  # what does not compress
        self.fills += 1

    def drop(self) -> None:
        """Drop it, if there is one."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def __str__(self) -> str:
        """Return its size and how often it was filled."""
        return f"{len(self._memory) if self._memory else 0} {self.fills}"


class CacheServer(HTTPServer):
    """The server, on the loopback."""

    def __init__(self, port: int, cache: Cache) -> None:
        self.cache = cache
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: CacheServer

    def do_GET(self) -> None:
        """Say what is in the cache."""
        self._answer(200)

    def do_POST(self) -> None:
        """Drop or fill the cache."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        actions = {"/sleep": self.server.cache.drop, "/wake_up": self.server.cache.fill}
        action = actions.get(self.path.partition("?")[0])
        if action is None:
            self._answer(404)
            return
        action()
        self._answer(200)

    def _answer(self, status: int) -> None:
        body = str(self.server.cache).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(argv: list[str]) -> None:
    """Serve until the process is killed."""
    cache = Cache(int(argv[2]))
    cache.fill()
    CacheServer(int(argv[1]), cache).serve_forever()


if __name__ == "__main__":
    main(sys.argv)
