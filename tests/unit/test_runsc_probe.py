"""What a runsc can do, read from its help: the texts of both versions, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import Unavailable
from shim.runsc.probe import (
    UNVERSIONED,
    find_binary,
    parse_flags,
    parse_version,
    probe,
)
from tests.unit.fakes_help import (
    CHECKPOINT_NEW,
    RESTORE_OLD,
    VERSION_NEW,
    VERSION_OLD,
    WAIT_NEW,
    WAIT_OLD,
    answering,
)
from tests.unit.fakes_runsc import Script


@pytest.mark.parametrize(
    ("text", "flags"),
    (
        (WAIT_OLD, {"checkpoint", "pid", "rootpid"}),
        (WAIT_NEW, {"checkpoint", "fsrestore", "pid", "restore"}),
        (RESTORE_OLD, {"bundle", "detach", "direct", "image-path"}),
        ("", set()),
        ("no flags - at all", set()),
    ),
)
def test_flags_of_a_help_text(text: str, flags: set[str]) -> None:
    """On `wait` of 20240729 the first flag stands on the usage line, and is found all the same."""
    assert parse_flags(text) == flags


def test_words_in_an_explanation_are_no_flags() -> None:
    """`save-restore-exec-argv` in the text about another flag does not count as one."""
    found = parse_flags(CHECKPOINT_NEW)

    assert "cuda-checkpoint-path" in found
    assert "restore-exec-argv" not in found
    assert "best-speed" not in found


@pytest.mark.parametrize(
    ("text", "version"),
    (
        (VERSION_OLD, "0.0~20240729.0"),
        (VERSION_NEW, UNVERSIONED),
        ("runsc version release-20260905.0\n", "release-20260905.0"),
        ("", UNVERSIONED),
        ("something else", UNVERSIONED),
    ),
)
def test_versions(text: str, version: str) -> None:
    """A build without a version is called what runsc itself calls it."""
    assert parse_version(text) == version


@given(text=st.text(max_size=2000))
def test_any_help_text_is_read(text: str) -> None:
    """Flags are plain words, whatever the program prints."""
    assert all(flag.isascii() and " " not in flag for flag in parse_flags(text))
    assert parse_version(text)


async def test_20240729_can_do_less(tmp_path: Path) -> None:
    """The old version has neither the builtin engine nor background restores."""
    able = await probe(str(answering(tmp_path, new=False).path))

    assert able.version == "0.0~20240729.0"
    assert able.direct
    assert able.nvproxy_flag
    assert not any((able.builtin_cuda, able.background, able.wait_restore, able.update))
    assert not any((able.saves_execs, able.saves_host_sockets))


async def test_the_newest_can_do_all(tmp_path: Path) -> None:
    """The newest version is seen with everything that it has."""
    able = await probe(str(answering(tmp_path, new=True).path))

    assert able.version == UNVERSIONED
    assert all((able.builtin_cuda, able.background, able.wait_restore, able.update, able.direct))
    assert all((able.saves_execs, able.saves_host_sockets))


async def test_another_program_is_no_runsc(tmp_path: Path) -> None:
    """A program that answers something else is refused by name."""
    other = Script(tmp_path)

    with pytest.raises(Unavailable, match="is not runsc") as caught:
        await probe(str(other.path))
    assert "config.toml" in caught.value.remedy


@pytest.mark.parametrize("name", ("no-such-runsc-anywhere", "/nonexistent/runsc"))
def test_no_program(name: str) -> None:
    """What to do about a missing runsc is said."""
    with pytest.raises(Unavailable, match="no such program") as caught:
        find_binary(name)
    assert caught.value.remedy


def test_a_link_is_followed_to_the_binary(tmp_path: Path) -> None:
    """Two names of one binary are one identity."""
    real = Script(tmp_path).path
    (tmp_path / "link").symlink_to(real)

    assert find_binary(str(tmp_path / "link")) == str(real)
