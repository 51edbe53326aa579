"""A server that answers with the path and a number of its own; `/health` waits for /tmp/ready."""

from __future__ import annotations

import os
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = secrets.token_hex(8)


class Handler(BaseHTTPRequestHandler):
    """Answers a GET, and keeps the connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        """Answer with the path and the number."""
        waits = self.path == "/health" and not os.path.exists("/tmp/ready")  # noqa: PTH110, S108
        body = f"{self.path} {TOKEN}".encode()
        self.send_response(503 if waits else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()  # noqa: S104
