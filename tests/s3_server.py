"""A server of the S3 protocol on a folder of the test."""

from __future__ import annotations

import http.client
import signal
import subprocess
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from shim.distribution.bucket import Bucket
from shim.distribution.http_options import HttpOptions
from shim.distribution.reference import BucketRef
from tests.builds import find_program
from tests.containerd.network import free_port

KEY, SECRET = "test-key", "test-secret-0123456789"
BUCKET = "images"
PREFIX = "team/llama"
# A failure is expected: it need not be waited for.
QUICK = HttpOptions(plain_http=True, connect_s=5, answer_s=5, attempts=2, backoff_s=0.01)
_START_S = 30.0


class S3Server:
    """versitygw with one bucket; it stores an object as a file of its path."""

    def __init__(self, folder: Path) -> None:
        self._program = find_program("versitygw")
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[Bucket] = []
        self.data.mkdir(parents=True)
        self.start()

    @property
    def data(self) -> Path:
        """Return the folder of the bucket."""
        return self.folder / "data" / BUCKET

    @property
    def layout(self) -> Path:
        """Return the folder of what is below the prefix."""
        return self.data / PREFIX

    @property
    def settings(self) -> dict[str, str]:
        """Return the variables of a client; nothing else of this machine is looked at."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": str(self.folder),
        }

    def bucket(
        self,
        options: HttpOptions = QUICK,
        *,
        name: str = BUCKET,
        prefix: str = PREFIX,
        settings: Mapping[str, str] | None = None,
    ) -> Bucket:
        """Return a client, with some variables of its own."""
        reference = BucketRef(bucket=name, prefix=prefix)
        made = Bucket(reference, {**self.settings, **(settings or {})}, options)
        self._clients.append(made)
        return made

    def start(self) -> None:
        """Start it, and wait until it answers."""
        argv: list[str | Path] = [
            self._program,
            "--port",
            f"127.0.0.1:{self.port}",
            "--quiet",
            "--health",
            "/health",
        ]
        argv += ["posix", self.folder / "data"]
        environment = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET, "PATH": "/usr/bin:/bin"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        end_s = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end_s, "the S3 server does not answer"
            time.sleep(0.02)

    def pause(self) -> None:
        """Let it answer nothing, while its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it, with whatever it was doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Close the clients, and end it."""
        for client in self._clients:
            client.close()
        self.kill()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
