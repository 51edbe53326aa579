"""A registry in memory, which answers as the OCI distribution specification has it."""

from __future__ import annotations

import itertools
import re
from urllib.parse import parse_qs, urlsplit

from shim.distribution.blob import digest_of
from tests.sites import Request, reply

_PATH = re.compile(r"/v2/(?P<repository>.+?)/(?P<kind>blobs|manifests)/(?P<rest>.*)")


class MemoryRegistry:
    """Repositories do not matter: all share their content."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.documents: dict[str, tuple[str, bytes]] = {}
        self.sessions: set[str] = set()
        self.uploads = "/v2/any/blobs/uploads/"
        self._numbers = itertools.count()

    def __call__(self, request: Request) -> bytes:
        """Answer a request."""
        found = _PATH.fullmatch(urlsplit(request.target).path)
        assert found is not None, request.target
        if found["kind"] == "manifests":
            return self._manifest(request, found["rest"])
        if found["rest"].startswith("uploads/"):
            return self._upload(request, found["rest"].removeprefix("uploads/"))
        return self._blob(request, found["rest"])

    def _upload(self, request: Request, session: str) -> bytes:
        if request.method == "POST":
            name = f"session-{next(self._numbers)}"
            self.sessions.add(name)
            return reply(202, Location=f"{self.uploads}{name}?_state=x")
        if session not in self.sessions:
            return reply(404)
        self.sessions.discard(session)
        if request.method == "DELETE":
            return reply(204)
        [digest] = parse_qs(urlsplit(request.target).query)["digest"]
        if digest_of(request.body) != digest:
            return reply(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"differs"}]}')
        self.blobs[digest] = request.body
        return reply(201, Location=f"/v2/any/blobs/{digest}")

    def _blob(self, request: Request, digest: str) -> bytes:
        content = self.blobs.get(digest)
        if content is None:
            return reply(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"unknown"}]}')
        if request.method == "HEAD":
            return reply(200, Content_Length=len(content))
        begin = request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-")
        if "range" not in request.headers:
            return reply(200, content)
        part = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return reply(206, content[int(begin) :], Content_Range=part)

    def _manifest(self, request: Request, name: str) -> bytes:
        if request.method == "PUT":
            kept = request.headers["content-type"], request.body
            self.documents[name] = self.documents[digest_of(request.body)] = kept
            return reply(201)
        if name not in self.documents:
            return reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}')
        kind, data = self.documents[name]
        return reply(200, data, Content_Type=kind)
