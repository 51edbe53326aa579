"""A client that sends requests to a server, checks each answer, and keeps its connections.

    python -m tests.containerd.load http | redis | postgres ADDRESS PORT [--until FILE]

It connects until the server answers for the first time; from then on a broken connection or a wrong
answer ends it with an error. Without --until each connection makes a few requests. It prints a
line for every ten answers, and at the end what the server says of itself: which start it is from.
"""

from __future__ import annotations

import argparse
import http.client
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Protocol

from shim.simgpu.waiting import wait_until

CONNECTIONS = 3
A_FEW = 10
ANSWER_S = 60.0
START_S = 120.0


class Client(Protocol):
    """A connection to a server."""

    def ask(self, number: int) -> str:
        """Make one request, check the answer, and return what the server says of itself."""


class Http:
    """A connection that is kept."""

    def __init__(self, address: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(address, port, timeout=ANSWER_S)
        self._connection.connect()
        # Without this the library would silently connect again.
        self._connection.auto_open = 0

    def ask(self, number: int) -> str:
        """Get a path, which the answer repeats."""
        self._connection.request("GET", f"/{number}")
        answer = self._connection.getresponse()
        path, token = answer.read().decode().split()
        expect((answer.status, path), (200, f"/{number}"))
        return token


class Stream:
    """A connection with a file to read from."""

    def __init__(self, address: str, port: int) -> None:
        self.socket = socket.create_connection((address, port), ANSWER_S)
        self.input: BinaryIO = self.socket.makefile("rb")
        self.session = secrets.token_hex(8)

    def read(self, size: int) -> bytes:
        """Read exactly so much.

        Raises:
            EOFError: the server closed the connection.
        """
        data = self.input.read(size)
        if len(data) < size:
            message = "the connection was closed"
            raise EOFError(message)
        return data


class Redis(Stream):
    """A connection to redis."""

    def ask(self, number: int) -> str:
        """Set a key, and get it."""
        expect(self._command("SET", self.session, str(number)), "OK")
        expect(self._command("GET", self.session), str(number))
        info = self._command("INFO", "server")
        return next(line[7:] for line in info.splitlines() if line.startswith("run_id:"))

    def _command(self, *words: str) -> str:
        parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
        self.socket.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
        line = self.input.readline().decode()
        kind, rest = line[:1], line[1:].strip()
        if kind == "$" and rest != "-1":
            return self.read(int(rest) + 2)[:-2].decode()
        expect(kind, "+")
        return rest


class Postgres(Stream):
    """A session of Postgres, in the simple query protocol of version 3."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port)
        words = b"user\0postgres\0database\0postgres\0\0"
        self.socket.sendall(struct.pack("!ii", len(words) + 8, 196608) + words)
        self._until_ready()
        self._query("CREATE TABLE IF NOT EXISTS written (number int, session text)")

    def ask(self, number: int) -> str:
        """Commit a row, and count the rows of this session."""
        row = f"INSERT INTO written VALUES ({number}, '{self.session}')"  # noqa: S608
        self._query(f"BEGIN; {row}; COMMIT")
        count = f"SELECT count(*) FROM written WHERE session = '{self.session}'"  # noqa: S608
        rows = self._query(count)
        expect(rows, [str(number + 1)])
        return self._query("SELECT pg_postmaster_start_time()")[0]

    def _query(self, text: str) -> list[str]:
        data = text.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!i", len(data) + 4) + data)
        return self._until_ready()

    def _until_ready(self) -> list[str]:
        """Return the first column of the rows of the answer."""
        rows: list[str] = []
        while True:
            kind, size = struct.unpack("!ci", self.read(5))
            data = self.read(size - 4)
            expect(kind == b"E" and data, False)
            if kind == b"D":
                (length,) = struct.unpack_from("!i", data, 2)
                rows.append(data[6 : 6 + length].decode())
            if kind == b"Z":
                return rows


CLIENTS: Mapping[str, Callable[[str, int], Client]] = {
    "http": Http,
    "redis": Redis,
    "postgres": Postgres,
}


def expect(found: object, wanted: object) -> None:
    """Compare an answer.

    Raises:
        ValueError: it is wrong.
    """
    if found != wanted:
        message = f"the answer is {found!r}, not {wanted!r}"
        raise ValueError(message)


def first(make: Callable[[], Client]) -> Client:
    """Connect until the server answers."""
    made: list[Client] = []

    def answers() -> bool:
        try:
            client = make()
            client.ask(0)
        except (OSError, EOFError, ValueError, http.client.HTTPException):
            return False
        made.append(client)
        return True

    wait_until(answers, "a first answer", START_S)
    return made[0]


def keep_asking(client: Client, until: Path | None) -> str:
    """Make requests until the file exists, or a few; return what the server says of itself."""
    number, token = 0, ""
    while number < A_FEW or (until and not until.exists()):
        number += 1
        found = client.ask(number)
        expect(found, token or found)
        token = found
        if number % A_FEW == 0:
            say("ten answers")
    return token


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Parse the command line, and send requests in several connections."""
    parser = argparse.ArgumentParser()
    parser.add_argument("protocol", choices=CLIENTS)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--until", type=Path)
    asked = parser.parse_args()

    def make() -> Client:
        return CLIENTS[asked.protocol](asked.address, asked.port)

    clients = [first(make) for _ in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        tokens = set(pool.map(lambda each: keep_asking(each, asked.until), clients))
    expect(len(tokens), 1)
    say(f"token {tokens.pop()}")


if __name__ == "__main__":
    main()
