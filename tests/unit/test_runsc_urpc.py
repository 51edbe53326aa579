"""Answers of the sentry, in whatever pieces they come."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from shim.errors import Unavailable
from shim.runsc import urpc
from shim.runsc.urpc import Document

VALUES: tuple[object, ...] = (
    {},
    [],
    {"success": True, "result": [{"cmd": "größe 日本 \U0001f600", "pid": 1}]},
    {"a": 'quote " and \\ and \\" and } ] {', "b": ["\\", '"', "\n"], "c": {"d": [[]]}},
    {"ends in": "backslash\\"},
)


@pytest.mark.parametrize("size", (1, 2, 3, 1000))
@pytest.mark.parametrize("value", VALUES)
def test_document_comes_in_pieces(value: object, size: int) -> None:
    """A document is whole with its last byte, wherever characters and escapes are cut."""
    data = json.dumps(value, ensure_ascii=False).encode()
    whole = Document()
    for at in range(0, len(data), size):
        assert not whole.complete
        whole.feed(data[at : at + size])

    assert whole.complete
    assert whole.value() == value


def test_what_follows_a_document_is_left() -> None:
    """The line break that the sentry sends after an answer, or more, is no part of it."""
    whole = Document()
    whole.feed(b' {"a": 1}\n{"b"')

    assert whole.complete
    assert whole.value() == {"a": 1}


def test_each_byte_is_looked_at_once() -> None:
    """A long document in small pieces takes as many steps as it has marks."""
    whole, steps = Document(), 0
    take = whole._step

    def counted() -> bool:
        nonlocal steps
        steps += 1
        return take()

    whole._step = counted  # type: ignore[method-assign]
    for piece in (b'{"a": "', *[b"x" * 100] * 5000, b'"}'):
        whole.feed(piece)

    assert whole.complete
    assert steps < 2 * 5000


@pytest.mark.parametrize("data", (b"}", b"a}", b"[1,,2]", b"{1: 2}"))
def test_what_is_no_document_is_refused(data: bytes) -> None:
    """What is not JSON is an error, and not waited for."""
    whole = Document()
    whole.feed(data)

    assert whole.complete
    with pytest.raises(ValueError, match=r"."):
        whole.value()


def test_document_is_bounded() -> None:
    """A document without an end is given up."""
    whole = Document(limit_bytes=100)
    whole.feed(b"[" * 100)

    with pytest.raises(ValueError, match="longer than 100 bytes"):
        whole.feed(b"[")


@pytest.mark.parametrize("said", (b"", b'{"success": true', b"hello", b'{"success": false}\n'))
async def test_sentry_that_does_not_answer_in_full(tmp_path: Path, said: bytes) -> None:
    """An answer that is cut short, or says no, is unavailable; the command is used then."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(said)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(answer, tmp_path / "s"):
        with pytest.raises(Unavailable, match="does not answer"):
            await urpc.call(tmp_path / "s", "M.x", None)
