"""Reading config.toml."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim import config
from shim.config import Config, Timeouts
from shim.errors import InvalidArgument
from shim.model import EngineName


def test_without_a_file_all_is_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual file may be absent."""
    monkeypatch.setattr(config, "DEFAULT_CONFIG", tmp_path / "config.toml")

    assert config.load() == Config()


def test_what_is_said_is_taken_and_the_rest_is_as_usual(tmp_path: Path) -> None:
    """Whole numbers do for seconds, and tables may be left out."""
    path = tmp_path / "config.toml"
    path.write_text('[timeouts]\nlock = 5\n[defaults]\nengine = "phased"\n', "utf-8")

    read = config.load(path)

    assert read.timeouts == Timeouts(lock=5.0)
    assert read.defaults.engine is EngineName.PHASED
    assert read.paths == Config().paths


@pytest.mark.parametrize(
    ("text", "said"),
    (
        (b"[timeouts]\nlok = 3\n", "unknown field `lok`"),
        (b"[nosuch]\n", "unknown field `nosuch`"),
        (b'[timeouts]\nlock = "3s"\n', "timeouts.lock"),
        (b'[defaults]\nengine = "fast"\n', "fast"),
        (b"[timeouts\n", "line 1"),
        (b"a = " + b"[" * 5000, "nested too deep"),
        (b"\xff", "utf-8"),
    ),
)
def test_a_wrong_file_is_named_with_the_place(tmp_path: Path, text: bytes, said: str) -> None:
    """A mistake is an error that says where, and never a silence."""
    path = tmp_path / "config.toml"
    path.write_bytes(text)

    with pytest.raises(InvalidArgument, match=said) as caught:
        config.load(path)
    assert str(path) in caught.value.message


def test_a_renamed_key_may_have_its_old_name(tmp_path: Path) -> None:
    """A config.toml of an earlier version is read; the new name counts where both are set."""
    path = tmp_path / "config.toml"
    path.write_text('[cuda]\nown_sockets = ["/old/"]\n', "utf-8")
    assert config.load(path).cuda.ignored_sockets == ("/old/",)

    path.write_text('[cuda]\nown_sockets = ["/old/"]\nignored_sockets = ["/new/"]\n', "utf-8")
    assert config.load(path).cuda.ignored_sockets == ("/new/",)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    """The path stands in the message once."""
    path = tmp_path / "none.toml"

    with pytest.raises(InvalidArgument) as caught:
        config.load(path)
    assert caught.value.message == f"config {path}: No such file or directory"


@pytest.mark.parametrize("seconds", ("0", "-1", "nan", "inf", "-inf"))
def test_a_deadline_is_a_time(tmp_path: Path, seconds: str) -> None:
    """Nothing can be done in no time, and a comparison with `nan` is never true."""
    path = tmp_path / "config.toml"
    path.write_text(f"[timeouts]\nlock = {seconds}\n", "utf-8")

    with pytest.raises(InvalidArgument, match="timeouts"):
        config.load(path)


@given(raw=st.binary(max_size=200))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes(tmp_path: Path, raw: bytes) -> None:
    """Settings, or an error of ours."""
    path = tmp_path / "config.toml"
    path.write_bytes(raw)

    with contextlib.suppress(InvalidArgument):
        assert isinstance(config.load(path), Config)
