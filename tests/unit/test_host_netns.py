"""The addresses of a network namespace, out of what the kernel says of its routes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition
from shim.host import netns

TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 10.9.8.0/24 2 0 2
        |-- 10.9.8.0
           /24 link UNICAST
        |-- 10.9.8.7
           /32 host LOCAL
        |-- 10.9.8.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
Local:
        |-- 10.9.8.7
           /32 host LOCAL
"""
INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fe8000000000000000fc00fffe000001 02 40 20 80     eth0
fd000000000000000000000000000002 02 40 00 82     eth0
"""


@pytest.mark.parametrize(
    ("trie", "inet6", "expected"),
    (
        (TRIE, INET6, ("10.9.8.7", "fd000000000000000000000000000002")),
        (TRIE.replace("10.9.8.7", "127.0.0.2"), "", ()),
        ("", INET6.splitlines()[0], ()),
        ("", "", ()),
        ("nonsense", "x\n\n", ()),
    ),
)
def test_addresses_that_others_can_reach(trie: str, inet6: str, expected: tuple[str, ...]) -> None:
    """Loopback, link-local, broadcast and networks are no addresses; each is named once."""
    assert netns.parse(trie, inet6) == expected


def test_a_namespace_that_is_gone(tmp_path: Path) -> None:
    """It is named, with what to do."""
    with pytest.raises(FailedPrecondition, match="gone does not exist") as caught:
        netns.addresses(tmp_path / "gone")

    assert "create it" in caught.value.remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_what_a_new_namespace_has() -> None:
    """It has its own loopback and lacks what is the host's alone; ours is the same after it."""
    before = Path("/proc/self/ns/net").readlink()

    assert netns.new_one_has(Path("/proc/sys/net/ipv4/conf/lo"))
    assert not netns.new_one_has(Path("/proc/sys/net/core/dev_weight"))

    assert Path("/proc/self/ns/net").readlink() == before
    assert Path("/proc/thread-self/ns/net").readlink() == before
