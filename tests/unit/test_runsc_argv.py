"""Command lines of runsc, word by word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.model import check_id
from shim.runsc import argv
from shim.runsc.argv import CheckpointArgs, CreateArgs, ExecArgs, Global, RestoreArgs, runsc_id

IDS = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", fullmatch=True)

GOLDEN = {
    "create": (
        CreateArgs(id="a", bundle="/b", pid_file="/p").args(),
        ["--bundle=/b", "--pid-file=/p", "a+"],
    ),
    "create with all": (
        CreateArgs(id="a", bundle="/b", pid_file="/p", console_socket="/c").args(),
        ["--bundle=/b", "--pid-file=/p", "--console-socket=/c", "a+"],
    ),
    "restore": (
        RestoreArgs(id="a", bundle="/b", pid_file="/p", image_path="/i").args(),
        ["--detach", "--bundle=/b", "--pid-file=/p", "--image-path=/i", "a+"],
    ),
    "restore with all": (
        RestoreArgs(
            id="a",
            bundle="/b",
            pid_file="/p",
            image_path="/i",
            console_socket="/c",
            background=True,
            direct=True,
        ).args(),
        [
            "--detach",
            "--bundle=/b",
            "--pid-file=/p",
            "--image-path=/i",
            "--console-socket=/c",
            "--background",
            "--direct",
            "a+",
        ],
    ),
    "checkpoint": (
        CheckpointArgs(id="a", image_path="/i").args(),
        ["--leave-running", "--image-path=/i", "--compression=none", "a+"],
    ),
    "checkpoint with all": (
        CheckpointArgs(
            id="a",
            image_path="/i",
            compression="flate-best-speed",
            direct=True,
            cuda_checkpoint_path="/dev/cryo/cuda-checkpoint",
        ).args(),
        [
            "--leave-running",
            "--image-path=/i",
            "--compression=flate-best-speed",
            "--direct",
            "--cuda-checkpoint-path=/dev/cryo/cuda-checkpoint",
            "a+",
        ],
    ),
    "exec a program": (
        ExecArgs(id="a", argv=("/bin/ls", "-l"), internal_pid_file="/ip").args(),
        ["--internal-pid-file=/ip", "a+", "/bin/ls", "-l"],
    ),
    "exec a process file": (
        ExecArgs(
            id="a", process="/f", pid_file="/p", internal_pid_file="/ip", console_socket="/c"
        ).args(),
        ["--process=/f", "--pid-file=/p", "--internal-pid-file=/ip", "--console-socket=/c", "a+"],
    ),
    "start": (argv.start("a"), ["a+"]),
    "kill": (argv.kill("a", 15), ["a+", "15"]),
    "kill all": (argv.kill("a", 9, everyone=True), ["--all", "a+", "9"]),
    "kill one": (argv.kill("a", 9, pid=7), ["--pid=7", "a+", "9"]),
    "delete": (argv.delete("a"), ["--force", "a+"]),
    "ps": (argv.ps("a"), ["--format=table", "a+"]),
    "events": (argv.events("a"), ["--stats", "a+"]),
    "update": (argv.update("a", "/r"), ["--resources=/r", "a+"]),
    "wait for a restore": (argv.wait_restore("a"), ["--restore", "a+"]),
    "pause, resume, state": (argv.simple("a"), ["a+"]),
}


@pytest.mark.parametrize("name", tuple(GOLDEN))
def test_each_command_line_is_known_word_by_word(name: str) -> None:
    """A flag that changes here changes what runsc does: never by accident."""
    made, expected = GOLDEN[name]

    assert made == expected


def test_the_id_is_closed_in_every_command() -> None:
    """Every command names the container by the id that is no beginning of another one."""
    for made, _ in GOLDEN.values():
        assert "a+" in made
        assert "a" not in made


@given(first=IDS, second=IDS)
def test_no_id_is_the_beginning_of_another(first: str, second: str) -> None:
    """Runsc takes any id that begins with the given text, so `a` must not find `ab`."""
    assert runsc_id(second).startswith(runsc_id(first)) == (first == second)


def test_no_legal_id_has_the_sign_that_closes_it() -> None:
    """If `a+` were an id of ours, `a` and `a+` could be mixed up again."""
    with pytest.raises(InvalidArgument):
        check_id("task id", "a+")


@given(
    compression=st.sampled_from(("", "none", "flate-best-speed")),
    direct=st.booleans(),
    tool=st.sampled_from(("", "/t")),
)
def test_a_checkpoint_is_never_terminal(compression: str, direct: bool, tool: str) -> None:
    """A terminal checkpoint that fails kills the workload, so none is ever asked for."""
    args = CheckpointArgs(
        id="a",
        image_path="/i",
        compression=compression,
        direct=direct,
        cuda_checkpoint_path=tool,
    ).args()

    assert "--leave-running" in args


def test_global_flags_stand_before_the_command() -> None:
    """Root and top-level flags come first, in an order that does not change."""
    top = Global(binary="/r", root="/run", flags={"network": "none", "host-uds": "open"})

    assert top.argv("ps", "a+") == [
        "/r",
        "--root=/run",
        "--host-uds=open",
        "--network=none",
        "ps",
        "a+",
    ]
    assert top.argv("create", "a+", log="/l")[4:7] == ["--log=/l", "--log-format=json", "create"]
