"""A real registry on a folder of the test, on the loopback interface."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import yaml

from tests.builds import find_program
from tests.certificates import Certificates

NAMES = ("registry-2.8", "registry-3")
USER, PASSWORD = "user", "hunter2-of-the-user"
# bcrypt of the password, which is all that these registries take.
_HASH = "$2b$05$abcdefghijklmnopqrstuu939nuZi94cF3rbwZyTBCDBCvBDQ7X5i"
_LISTENING = re.compile(rb"listening on (127\.0\.0\.1:\d+)")
_START_S = 60.0
_STOP_S = 20.0


class RegistryServer:
    """One of the registries of `hack.tools.registries`; its host changes when it starts again."""

    def __init__(self, name: str, folder: Path, certificates: Certificates | None = None) -> None:
        self._program = find_program(name)
        self.folder = folder
        self.certificates = certificates
        self.with_login = False
        self.host = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._lines: list[bytes] = []
        self._reader = threading.Thread()

    @property
    def data(self) -> Path:
        """Return the folder of its storage."""
        return self.folder / "data"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.yml"
        path.write_text(yaml.safe_dump(self._config()), "utf-8")
        environment = {"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"}
        self._ready.clear()
        self._process = subprocess.Popen(
            [self._program, "serve", path],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        assert self._ready.wait(_START_S), b"".join(self._lines)
        assert self._process.poll() is None, b"".join(self._lines)

    def kill(self) -> None:
        """Kill it, with whatever it was doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOP_S)
            self._reader.join(_STOP_S)
            self._process = None

    def blobs(self) -> set[str]:
        """Return the digests of the blobs that it has stored."""
        folder = self.data / "docker/registry/v2/blobs/sha256"
        return {path.parent.name for path in folder.glob("*/*/data")}

    def _config(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": "127.0.0.1:0", "secret": "of-the-tests"}
        if self.certificates is not None:
            http["tls"] = {
                "certificate": str(self.certificates.server),
                "key": str(self.certificates.key),
            }
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.data)},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if self.with_login:
            path = self.folder / "htpasswd"
            path.write_text(f"{USER}:{_HASH}\n", "utf-8")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(path)}}
        return config

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                self._lines.append(line)
                if found := _LISTENING.search(line):
                    self.host = found[1].decode()
                    self._ready.set()
        self._ready.set()
