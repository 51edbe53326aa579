"""Derives new inputs from valid ones."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from shim.service.ttrpc import envelope
from shim.service.ttrpc.frame import Header, Kind

# Difficult input for parsers: limits, nesting, invalid encodings, line breaks.
_TOKENS = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"NaN",
    b"[" * 2000,
    b"{" * 2000,
    b'{"a":' * 500,
    b"..",
    b"/../../etc/passwd",
    b"\n",
    b"\r\n",
    b"\x1b[2J",
    b"null",
    b'"',
    b"\xed\xa0\x80",
    b"\xe2\x80\xae",
    b"%s%n",
    b"A" * 5000,
)
_MOST = 6
_SPLICE = 0.1
# Few whole frames: a wrong length makes the rest of its connection useless.
_LEVELS = (*["message"] * 10, *["envelope"] * 9, "frame")


_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 70,
    1e300,
    "",
    "x" * 5000,
    "\0",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every node of a tree, as its container and key."""
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
    for key in keys:
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from _places(node[key])


class Seed(NamedTuple):
    """A valid request."""

    service: str
    method: str
    payload: bytes


class Mutator:
    """Mutates inputs, deterministically for the same `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._ways: tuple[Callable[[bytearray], None], ...] = (
            self._flip,
            self._replace,
            self._cut,
            self._truncate,
            self._double,
            self._insert,
        )

    def mutate(self, seeds: Sequence[bytes]) -> bytes:
        """Mutate one of the seeds a few times, sometimes after splicing it with another."""
        data = bytearray(self._rng.choice(seeds))
        if self._rng.random() < _SPLICE:
            other = self._rng.choice(seeds)
            at, cut = self._at(data), self._rng.randrange(len(other) + 1)
            data[at:] = other[cut:]
        for _ in range(self._rng.randint(1, _MOST)):
            self._rng.choice(self._ways)(data)
        return bytes(data)

    def reshape(self, seeds: Sequence[bytes]) -> bytes:
        """Mutate the structure of JSON: values of other types, removed keys."""
        whole = [json.loads(self._rng.choice(seeds))]
        for _ in range(self._rng.randint(1, _MOST)):
            places = list(_places(whole))
            place, key = self._rng.choice(places)
            if self._rng.random() < _SPLICE and isinstance(place, dict):
                del place[key]
            else:
                place[key] = copy.deepcopy(
                    self._rng.choice([*_VALUES, *(at[of] for at, of in places)])
                )
        return json.dumps(whole[0]).encode()

    def frame(self, seeds: Sequence[Seed], stream: int) -> bytes:
        """Return a frame that is mutated as a whole, in its envelope, or in its message."""
        seed = self._rng.choice(seeds)
        level = self._rng.choice(_LEVELS)
        payload = self.mutate([seed.payload]) if level == "message" else seed.payload
        whole = envelope.write_request(seed.service, seed.method, payload, 5.0, {"k": "v"})
        if level == "envelope":
            whole = self.mutate([whole])
        packed = Header(len(whole), stream, Kind.REQUEST).pack() + whole
        return self.mutate([packed]) if level == "frame" else packed

    def _at(self, data: bytearray) -> int:
        return self._rng.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)

    def _replace(self, data: bytearray) -> None:
        if data:
            data[self._rng.randrange(len(data))] = self._rng.randrange(256)

    def _cut(self, data: bytearray) -> None:
        at = self._at(data)
        del data[at : at + self._rng.randint(1, 16)]

    def _truncate(self, data: bytearray) -> None:
        del data[self._at(data) :]

    def _double(self, data: bytearray) -> None:
        at = self._at(data)
        part = data[at : at + self._rng.randint(1, 64)]
        data[at:at] = part * self._rng.randint(1, 4)

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self._rng.choice(_TOKENS)
