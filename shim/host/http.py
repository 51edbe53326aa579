"""One HTTP/1.1 request over a stream, with limits on time and size; cheap for a shim to import."""

from __future__ import annotations

import asyncio
import re

from shim.errors import DeadlineExceeded, Unavailable
from shim.model import Value

# Of the body; what is beyond it is not read.
BODY_LIMIT_BYTES = 64 << 10
_HEAD_LIMIT_BYTES = 64 << 10
_LINE_LIMIT_BYTES = 8 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: .*)?")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})\s*(?:;.*)?")
_INTERIM, _FINAL = 100, 200
_WITHOUT_BODY = (204, 304)


class Response(Value):
    """The status of an answer, and the beginning of its body."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004 - HTTP's own numbers


async def request(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    *,
    host: str,
    timeout_s: float,
    json: bytes = b"",
) -> Response:
    """Send a request and read the answer; the stream serves only this one.

    Raises:
        DeadlineExceeded: no complete answer in time.
        Unavailable: the stream ended early, or the answer is not HTTP/1.
    """
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    if json:
        head += "Content-Type: application/json\r\n"
    if json or method == "POST":
        head += f"Content-Length: {len(json)}\r\n"
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(f"{head}\r\n".encode("ascii") + json)
            await writer.drain()
            return await _answer(reader)
    except TimeoutError as error:
        message = f"{method} {target}: no answer in {timeout_s:g} s"
        raise DeadlineExceeded(message) from error
    except (OSError, EOFError, ValueError) as error:  # EOFError: an incomplete read
        message = f"{method} {target}: {_reason(error)}"
        raise Unavailable(message) from error


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the answer is incomplete"
    return str(error)


async def _answer(reader: asyncio.StreamReader) -> Response:
    status, headers = await _head(reader)
    while _INTERIM <= status < _FINAL:
        status, headers = await _head(reader)
    body = b"" if status in _WITHOUT_BODY else await _body(reader, headers)
    return Response(status=status, body=body)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    first = await _line(reader)
    found = _STATUS.fullmatch(first)
    if found is None:
        message = f"the answer begins with {first[:40]!r}, not with an HTTP status"
        raise ValueError(message)
    headers: dict[bytes, bytes] = {}
    size = 0
    while line := await _line(reader):
        size += len(line)
        if size > _HEAD_LIMIT_BYTES:
            message = f"the answer has more than {_HEAD_LIMIT_BYTES} bytes of headers"
            raise ValueError(message)
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    return int(found.group(1)), headers


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Read a line; the reader itself has a limit, which is a ValueError too."""
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    if len(line) > _LINE_LIMIT_BYTES:
        message = f"a line of the answer has more than {_LINE_LIMIT_BYTES} bytes"
        raise ValueError(message)
    return line.rstrip(b"\r\n")


async def _body(reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> bytes:
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        return await _chunks(reader)
    said = headers.get(b"content-length")
    if said is None:
        return await _rest(reader)
    if not said.isdigit():
        message = f"the answer has the content length {said[:40]!r}"
        raise ValueError(message)
    return await reader.readexactly(min(int(said), BODY_LIMIT_BYTES))


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Read to the end of the stream, or to the limit."""
    try:
        return await reader.readexactly(BODY_LIMIT_BYTES)
    except asyncio.IncompleteReadError as ended:
        return ended.partial


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while len(body) < BODY_LIMIT_BYTES:
        line = await _line(reader)
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            message = f"a chunk of the answer begins with {line[:40]!r}"
            raise ValueError(message)
        size = int(found.group(1), 16)
        if size == 0:
            break
        room = BODY_LIMIT_BYTES - len(body)
        body += await reader.readexactly(min(size, room))
        if size <= room:
            await _line(reader)
    return bytes(body)
