"""What runsc complains about: samples of both versions, as they were printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import (
    CryoError,
    FailedPrecondition,
    HostMismatch,
    ImageCorrupt,
    InvalidArgument,
    InvalidBundle,
    NotFound,
    ResourceExhausted,
    RunscError,
    Unavailable,
)
from shim.runsc.causes import CAUSES
from shim.runsc.failure import error_line, failure, last_error, log_error

NIL = """\
checkpoint failed: checkpointing container "d+": runtime error: invalid memory address or nil \
pointer dereference:
goroutine 50 [running]:
gvisor.dev/gvisor/pkg/state.safely.func1()
\tgvisor.dev/gvisor/pkg/state/state.go:309 +0x170
panic({0x1196060?, 0x20b96d0?})
\truntime/panic.go:792 +0x132
gvisor.dev/gvisor/pkg/state.(*encodeState).Save(0xc00047dc08, {0x137eec0?, 0xc00011a408?})
\tgvisor.dev/gvisor/pkg/state/encode.go:813 +0x2b5
gvisor.dev/gvisor/pkg/urpc.(*Server).handleRegistered(...)
\tgvisor.dev/gvisor/pkg/urpc/urpc.go:433
created by gvisor.dev/gvisor/pkg/urpc.(*Server).StartHandling in goroutine 12
\tgvisor.dev/gvisor/pkg/urpc/urpc.go:451 +0x6b

"""
TRUNCATED = """\
starting container: restoring container "r+": error decoding from 0x2: unexpected EOF:
goroutine 28 [running]:
gvisor.dev/gvisor/pkg/state.safely.func1()
\tgvisor.dev/gvisor/pkg/state/state.go:309 +0x170
panic({0x1182a00?, 0x20b94d0?})
\truntime/panic.go:792 +0x132
gvisor.dev/gvisor/pkg/state/wire.readByte({0x1582a80, 0xc0002f60c0})
\tgvisor.dev/gvisor/pkg/state/wire/wire.go:127 +0xd9
"""
USAGE = """\
flag provided but not defined: -nonesuch
checkpoint [flags] <container id> - save current state of container.
  -compression value
    \tcompress checkpoint image on disk. Values: none|flate-best-speed. (default flate-best-speed)
  -direct
    \tuse O_DIRECT for writing checkpoint pages file
  -work-path string
    \tignored

"""
NEW_USAGE = (
    USAGE + 'failed to parse flags for "checkpoint": flag provided but not defined: -nonesuch\n'
)
OVERLAY = """\
starting container: restoring container "f5+": inconsistent private memory files on restore: \
savedMFOwners = [], mfmap = map[__no_name_0:/:x
-   0: [0x0, 0xffffffffffffffff) => {}
memAcct:
]
"""
REFUSED = (
    'checkpointing container "d+": connecting to control server at PID 2962: connection refused'
)

LINES = (
    (NIL, "invalid memory address or nil pointer dereference"),
    (TRUNCATED, "error decoding from 0x2: unexpected EOF"),
    (USAGE, "flag provided but not defined: -nonesuch"),
    (NEW_USAGE, "flag provided but not defined: -nonesuch"),
    (OVERLAY, "inconsistent private memory files on restore: savedMFOwners = [], mfmap = map[/:x"),
    ("*** Warning: no network\nthe error\n", "the error"),
    (f"checkpoint failed: {REFUSED}\n", "connection refused"),
    ('pause failed: cannot pause container "d+" in state paused\n', "in state paused"),
    (
        "W1123 18:00:00.1 1 x.go:1] careful\nthe error\nI1123 18:00:00.1 1 x.go:1] bye\n",
        "the error",
    ),
    ("WARNING: no cgroups\n", ""),
    ("", ""),
    ("\n \n", ""),
    ("goroutine 1 [running]:\nmain.main()\n", ""),
)


@pytest.mark.parametrize(("text", "end"), LINES)
def test_the_line_that_says_why(text: str, end: str) -> None:
    """Out of stack dumps, usage and log noise comes the one line that a person can use."""
    line = error_line(text)

    assert line.endswith(end)
    assert bool(line) == bool(end)


@pytest.mark.parametrize("text", (NIL, TRUNCATED))
def test_a_dump_in_the_log_is_cut_as_well(text: str) -> None:
    """Runsc writes the whole dump into its log's message; only its first line is taken."""
    log = json.dumps({"msg": text, "level": "error", "time": "t"}) + "\n"

    assert log_error(log) == error_line(text)
    assert "goroutine" not in log_error(log)


def test_the_newest_error_of_a_log_counts() -> None:
    """Warnings, broken lines and older errors are passed over."""
    entries = [
        json.dumps({"msg": "first", "level": "error"}),
        json.dumps({"msg": "second", "level": "fatal"}),
        json.dumps({"msg": "only a warning", "level": "warning"}),
        "not json {",
        "[]",
        "null",
    ]

    assert log_error("\n".join(entries)) == "second"


def test_entries_without_anything_between() -> None:
    """Runsc writes no line breaks; that the sandbox went away is not the reason why."""
    log = "".join(
        json.dumps({"msg": text, "level": "error"})
        for text in (
            "error setting up FS: mount failed: invalid argument",
            "Error reading mounts file: unexpected end of JSON input",
            "cannot read client sync file: waiting for sandbox to start: EOF",
        )
    )

    assert log_error(log) == "error setting up FS: mount failed: invalid argument"
    assert log_error('x {"a": }' + log).startswith("error setting up FS")
    newest = json.dumps({"msg": "the reason", "level": "error"})
    assert log_error(log[3:] + newest) == "the reason"


def test_a_spec_in_the_log_is_not_what_went_wrong() -> None:
    """Runsc shows a spec that it cannot read whole, below the reason."""
    said = 'FetchSpec failed: json: bad uid\n {"ociVersion":"1.0.2","process":{}}\n'

    assert log_error(json.dumps({"msg": said, "level": "error"})) == said.splitlines()[0]


@pytest.mark.parametrize("log", ("", "\n", "{", '{"level":"error"}', "[" * 200_000, "1"))
def test_a_broken_log_gives_nothing(log: str) -> None:
    """A log that says nothing is no crash of ours."""
    assert log_error(log) == ""


NO_IMAGE = 'opening state file "/i/checkpoint.img" failed: open /i/checkpoint.img: no such file'

NO_PROGRAM = 'error finding executable "x" in PATH [/bin]: no such file or directory'

MAPPED = (
    ("creating process: failed to load /x: no such file or directory", InvalidArgument),
    (NO_PROGRAM, InvalidArgument),
    ('signaling process in container "s+" PID 2: no such process with PID 2', NotFound),
    ('failed to create process working directory "/x": read-only file system', InvalidArgument),
    ("reading spec: error unmarshaling spec from file: json: bad uid", InvalidBundle),
    ("closing state file failed: no space left on device", ResourceExhausted),
    ("statefile error: no space left on device", ResourceExhausted),
    ("checkpoint not supported when using hostinet", FailedPrecondition),
    ("statefile.NewWriter failed: no space left on device", ResourceExhausted),
    ("writing page file: disk quota exceeded", ResourceExhausted),
    ('restoring container "r+": statefile cannot be empty', ImageCorrupt),
    ('restoring container "r+": error decoding from 0x2: unexpected EOF', ImageCorrupt),
    (
        (
            'restoring container "r+": failed to load kernel: error decoding object ID 622 '
            "(cgroupfs.controllerFile): reflect: call of reflect.Value.SetBool on struct Value"
        ),
        ImageCorrupt,
    ),
    ("reading metadata from statefile: bad magic header", ImageCorrupt),
    ("inconsistent private memory files on restore", HostMismatch),
    ("loading container: file does not exist", NotFound),
    ("FetchSpec failed: loading container: file does not exist", NotFound),
    ('container "x" does not exist', NotFound),
    (REFUSED, Unavailable),
    ("connecting to control server at PID 5: no such file or directory", Unavailable),
    ('cannot signal container "d+" in state paused', RunscError),
    (NO_IMAGE, RunscError),
    ('unknown signal "99"', RunscError),
    ('urpc method "containerManager.Checkpoint" failed: EOF', Unavailable),
    (
        "creating container: cannot read client sync file: waiting for sandbox to start: EOF",
        RunscError,
    ),
    ("", RunscError),
)


@pytest.mark.parametrize(("line", "kind"), MAPPED)
def test_what_runsc_says_has_a_type(line: str, kind: type[CryoError]) -> None:
    """Each class of failure is distinguished, and carries runsc's own words."""
    error = failure("checkpoint", 128, line)

    assert type(error) is kind
    assert error.message.startswith("runsc checkpoint")


def test_a_silent_failure_reports_its_status() -> None:
    """With no line at all the exit status is what there is to say."""
    error = failure("pause", 1, "")

    assert "exit status 1" in error.message
    assert error.remedy
    assert isinstance(error, RunscError)
    assert (error.command, error.status) == ("pause", 1)


@pytest.mark.parametrize(
    ("ended", "printed", "line"),
    (
        (
            ", err: exit status 3",
            "\nstdout: \nstderr: a\nno network\n",
            "exit status 3: no network",
        ),
        (", err: exit status 1", "\nstdout: said so\nstderr: ", "exit status 1: said so"),
        (", err: signal: killed", "\nstdout: \nstderr: ", "signal: killed"),
        ("", "\nstdout: \nstderr: waiting", "timeout: waiting"),
    ),
)
def test_a_hook_that_failed_is_named(ended: str, printed: str, line: str) -> None:
    """Which hook, how it ended, and the last line that it printed."""
    verb = "failure" if ended else "timeout"
    text = (
        f'creating container: {verb} executing hook "/t/bundle/createRuntime-0-cni"{ended}{printed}'
    )

    assert error_line(text) == f"hook createRuntime-0-cni failed: {line}"


def test_a_file_is_named_by_the_whole_path_of_its_mount() -> None:
    """The mount's destination is that of the spec, however deep."""
    line = error_line('failed to walk "a/b" of type 0100000 in mount "__no_name_0:/dev/h": gone')

    assert "a/b in the mount at /dev/h: gone" in failure("restore", 128, line).message


def test_a_long_command_line_does_not_hide_the_cause() -> None:
    """The arguments of a container that does not start are left out: what follows them counts."""
    argv = " ".join(["/bin/python", "-c", "x" * 1000])
    said = f"starting container: starting sub-container [{argv}]: no such file or directory"
    assert error_line(said).endswith("starting sub-container: no such file or directory")


def test_what_a_hook_printed_is_not_taken_for_runsc_s() -> None:
    """A hook that speaks of a full disk says nothing of the image's."""
    error = failure("create", 128, "hook cni failed: exit status 1: no space left on device")

    assert type(error) is RunscError
    assert "hook cni failed" in error.message


def test_a_killed_runsc_names_its_signal() -> None:
    """An exit status of a signal is reported as such, with what to look at."""
    error = failure("create", 137, "")

    assert "SIGKILL" in error.message
    assert error.remedy


# Every message of the data file: its class, a part of what is said, a part of the remedy.
_PROGRAM = (InvalidArgument, "", "name a program")
_FLAG = (InvalidArgument, "", "correct [runsc.flags]")
_BUNDLE = (InvalidBundle, "", "correct config.json")
_SOURCE = (InvalidBundle, "", "each source must exist")
_ANNOTATION = (InvalidBundle, "", "dev.gvisor.flag")
_DEAD = (Unavailable, "does not answer", "delete the task")
_DIFFERS = (InvalidArgument, "the bundle differs from the one in the image", "the saved value")
_SPOILT = (ImageCorrupt, "cannot be read", "verify")
_ENDED = (FailedPrecondition, "the sandbox exited while it loaded the image", "verify")
_PLAIN = (RunscError, "", "")
_GONE = (NotFound, "", "gone")
_FILE = (FailedPrecondition, "a file that the task had open", "restore the file")
_MEANING: dict[str, tuple[type[CryoError], str, str]] = {
    "start cwd": (InvalidArgument, "", "name a working directory"),
    "start program": _PROGRAM,
    "start program PATH": _PROGRAM,
    "start no format": _PROGRAM,
    "exec program": _PROGRAM,
    "exec cwd": (InvalidArgument, "", "name a working directory"),
    "create mount source": _SOURCE,
    "create rootfs gone": _SOURCE,
    "restore volume gone": _SOURCE,
    "restore root gone": _SOURCE,
    "create bad uid": _BUNDLE,
    "create selinux": _BUNDLE,
    "create seccomp prop": _BUNDLE,
    "create flag annotation": _ANNOTATION,
    "create flag annotation off": _ANNOTATION,
    "create netns gone": (FailedPrecondition, "/run/netns/gone does not exist", "create it"),
    "create flag file-access": _FLAG,
    "create flag no-such-flag": _FLAG,
    "create flag overlay2": _FLAG,
    "kill pid": (NotFound, "", "it has exited"),
    "checkpoint full": (ResourceExhausted, "the disk is full", "free space"),
    "kill dead": _DEAD,
    "checkpoint dead": _DEAD,
    "state none": _GONE,
    "restore empty": _ENDED,
    "restore pages truncated": _ENDED,
    "restore pages random": _ENDED,
    "restore folder": _ENDED,
    "restore netns gone": (FailedPrecondition, "/run/netns/gone does not exist", "create it"),
    "restore truncated": _SPOILT,
    "restore corrupt": _SPOILT,
    "restore magic": _SPOILT,
    "restore by the other": _SPOILT,
    "restore rlimits": _DIFFERS,
    "restore mount missing": (InvalidArgument, "the bundle", "the saved"),
    "restore overlay": (HostMismatch, "overlay2 differs", "set overlay2"),
    "restore overlay back": (HostMismatch, "overlay2 differs", "set overlay2"),
    "restore network": (HostMismatch, "network", "set network"),
    "restore directfs": (FailedPrecondition, "cannot be reached", "set directfs"),
    "restore file gone": _FILE,
    "restore file of a member gone": _FILE,
    "restore terminal of a member": (FailedPrecondition, "container count", "without a terminal"),
    # In runsc's own words, for they say it and what to do depends on who asked.
    "kill signal": _PLAIN,
    "kill paused": _PLAIN,
    "exec paused": _PLAIN,
    "exec user": _PLAIN,
    "pause paused": _PLAIN,
    "checkpoint again": _PLAIN,
    "checkpoint no dir": _PLAIN,
    "restore no image": _PLAIN,
}
_OTHER_BUILD = {
    ("old", "restore empty"): _SPOILT,
    ("new", "restore magic"): _ENDED,
    ("old", "checkpoint dead"): _PLAIN,  # it was asked where an image is already
}


def _name(one: dict[str, str]) -> str:
    return f"{one['build']} {one['command']} {one['case']}"


MESSAGES = json.loads((Path(__file__).parent / "runsc_messages.json").read_text("utf-8"))


@pytest.mark.parametrize("one", MESSAGES, ids=_name)
def test_what_was_printed_has_one_meaning(one: dict[str, str]) -> None:
    """Each message that was provoked on real runsc has its own cause and matches no other."""
    name = f"{one['command']} {one['case']}"
    kind, said, remedy = _OTHER_BUILD.get((one["build"], name)) or _MEANING[name]
    line = error_line(one["text"])
    error = failure(one["command"], 128, line)

    assert type(error) is kind
    assert said in error.message
    assert remedy in error.remedy
    assert sum(cause.explain(line) is not None for cause in CAUSES) == (kind is not RunscError)
    shown = f"{error.message} {error.remedy}"
    for noise in ("specs.", "wire.", "goroutine", "__no_name", '+"', "{Destination", "mfmap"):
        assert noise not in shown
    assert not error.message.endswith(("]", ":", "{"))


def test_every_case_has_a_message() -> None:
    """Every class has a known message."""
    assert {f"{one['command']} {one['case']}" for one in MESSAGES} == set(_MEANING)


@given(text=st.text(max_size=3000))
def test_any_text_gives_one_short_line(text: str) -> None:
    """Whatever stands in stderr: one line, bounded, and never one of a dump."""
    line = error_line(text)

    assert len(line) <= 400
    assert len(line.splitlines()) <= 1
    assert not line.startswith(("goroutine ", "created by "))
    failure("x", 1, line)


@given(text=st.text(max_size=500))
def test_any_log_is_read_without_a_crash(text: str) -> None:
    """Whatever stands in the log, and in a message inside it."""
    log_error(text)
    entry = json.dumps({"level": "error", "msg": text})

    assert log_error(entry) == error_line(text)


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    """A log that a debug run made huge is not read whole; no log is no error."""
    log = tmp_path / "log"
    with log.open("w") as file:
        file.write((json.dumps({"level": "info", "msg": "x" * 1000}) + "\n") * 3000)
        file.write(json.dumps({"level": "error", "msg": "the end"}) + "\n")

    assert last_error(log) == "the end"
    assert last_error(tmp_path / "none") == ""
