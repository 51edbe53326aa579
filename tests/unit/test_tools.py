from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hack.tools import cli, clients, containerd, kubernetes, runsc
from hack.tools.cache import locked, scratch, try_lock
from hack.tools.debian import add_libraries, collect
from hack.tools.kept import from_cache, keep
from hack.tools.running import NotHere, run
from hack.tools.tool import Choice, Tool, choose, obtain
from tests.builds import find_program


def write_runsc(path: Path, *, version: str = "release-20260905.0", builtin: bool = False) -> Path:
    """Write a program that answers what is asked of a runsc here."""
    flag = "-cuda-checkpoint-path" if builtin else "-image-path"
    answers = f'help) echo "  {flag} string" ;; *) echo "runsc version {version}" ;;'
    path.write_text(f'#!/bin/sh\ncase "$1" in {answers} esac\n')
    path.chmod(0o755)
    return path


def refuse(_tool: Tool, _cache: Path) -> Choice:
    """Stand for a source that has nothing."""
    raise NotHere("nothing here")


def make(tool: Tool, cache: Path) -> Choice:
    """Stand for a source that builds the tool."""
    with scratch(cache) as work:
        write_runsc(work / "runsc", builtin=True)
        return keep(tool, cache, work, "a build")


def test_the_first_source_that_has_it_wins(tmp_path: Path) -> None:
    """The choice names its source and why the earlier ones were passed over."""
    tool = Tool("runsc-x", "v1", ("runsc",), (refuse, make, refuse), runsc.has_builtin)

    choice = choose(tool, tmp_path)

    assert choice.source == "a build"
    assert choice.has_builtin
    assert choice.passed_over == ("nothing here",)


def test_what_was_made_is_found_again_with_its_origin(tmp_path: Path) -> None:
    """A second run takes the cached binary and says where it once came from."""
    tool = Tool("runsc-x", "v1", ("runsc",), (from_cache, make))

    first, second = choose(tool, tmp_path), choose(tool, tmp_path)

    assert second.passed_over == ()
    assert second == replace(first, passed_over=())


def test_a_cached_binary_that_changed_is_not_used(tmp_path: Path) -> None:
    """A cached file whose bytes are not those that were recorded is made again."""
    tool = Tool("runsc-x", "v1", ("runsc",), (from_cache, make), runsc.has_builtin)
    Path(choose(tool, tmp_path).path).write_text("#!/bin/sh\nexit 0\n")

    choice = choose(tool, tmp_path)

    assert "was changed" in choice.passed_over[0]
    assert choice.has_builtin


def test_a_recent_no_is_not_asked_again(tmp_path: Path) -> None:
    """Within ten minutes the recorded reason is given without trying; asked again, it is tried."""
    obtained = obtain(Tool("runsc-x", "v1", ("runsc",), (refuse,)), tmp_path, ask_again=False)
    tool = Tool("runsc-x", "v1", ("runsc",), (make,))

    assert obtain(tool, tmp_path, ask_again=False) == obtained
    assert obtain(tool, tmp_path, ask_again=True).reason == ""


def test_an_old_no_is_asked_again(tmp_path: Path) -> None:
    """A reason older than ten minutes is forgotten."""
    tool = Tool("runsc-x", "v1", ("runsc",), (refuse,))
    obtain(tool, tmp_path, ask_again=False)
    record = tmp_path / "runsc-x.json"
    stale = json.loads(record.read_text()) | {"checked_at": time.time() - 601}
    record.write_text(json.dumps(stale))

    assert obtain(replace(tool, sources=(make,)), tmp_path, ask_again=False).reason == ""


@pytest.mark.parametrize(
    ("version", "expected"),
    (
        ("0.0~20240729.0", True),
        ("release-20240729.0", True),
        ("release-20240729.0-12-gabc", True),
        ("0.0~20221219.0", False),
        ("VERSION_MISSING", False),
    ),
)
def test_debian_and_upstream_name_one_version(tmp_path: Path, version: str, expected: bool) -> None:
    """The old version is known by its date, in every build."""
    path = write_runsc(tmp_path / "runsc", version=version)

    assert runsc.is_version(path, runsc.OLD.version) is expected


def test_a_release_needs_its_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release folder without gvisor-bin is passed over, and with it is taken."""
    write_runsc(tmp_path / "runsc", builtin=True)
    monkeypatch.setenv("CRYO_RUNSC_RELEASE", str(tmp_path))

    with pytest.raises(NotHere, match="gvisor-bin"):
        runsc.from_release(runsc.NEW, tmp_path)
    (tmp_path / "gvisor-bin").mkdir()

    assert runsc.from_release(runsc.NEW, tmp_path).path == str(tmp_path / "runsc")


def test_path_is_taken_only_for_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runsc on PATH serves as the version that it is and as no other."""
    write_runsc(tmp_path / "runsc", version="release-20240729.0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert runsc.on_path(runsc.OLD, tmp_path).source == "PATH"
    with pytest.raises(NotHere, match="has no --cuda-checkpoint-path"):
        runsc.on_path(runsc.NEW, tmp_path)


def test_a_hung_program_is_ended(tmp_path: Path) -> None:
    """A program that takes too long is ended with its children, and the reason says so."""
    began = time.monotonic()

    with pytest.raises(NotHere, match=r"sh did not finish in 0\.2 s"):
        run(["sh", "-c", "sleep 300 & sleep 300"], timeout_s=0.2)

    assert time.monotonic() - began < 150  # it did not wait for them


def test_the_reason_is_the_last_line_that_the_program_wrote() -> None:
    """A failed program's last line of stderr becomes the reason."""
    with pytest.raises(NotHere, match=r"^sh -c: it broke$"):
        run(["sh", "-c", "echo first >&2; echo 'it broke' >&2; exit 3"], timeout_s=5)


def test_scratch_of_a_killed_run_is_cleared(tmp_path: Path) -> None:
    """What a killed run left behind is gone once the next has worked."""
    left = tmp_path / "work" / "left"
    left.mkdir(parents=True)

    with scratch(tmp_path) as work:
        assert work.is_dir()
        assert not left.exists()

    assert not (tmp_path / "work").exists()


def test_two_runs_take_turns(tmp_path: Path) -> None:
    """While one run holds the cache, another cannot take the lock; afterwards it can."""
    with (tmp_path / "lock").open("w") as other:
        with locked(tmp_path):
            held = try_lock(other.fileno())

        assert not held
        assert try_lock(other.fileno())


def test_an_unknown_tool_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown tool name ends with status 2 and the known names."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["runsc-newest"])

    assert "choose from runsc-new, runsc-old" in capsys.readouterr().err


def write_containerd(folder: Path, version: str, *names: str) -> None:
    """Write programs that say what a containerd says of its version."""
    for name in ("containerd", *names):
        words = f"containerd github.com/containerd/containerd {version} abc"
        (folder / name).write_text(f"#!/bin/sh\necho {words}\n")
        (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("version", "line"),
    (
        ("1.6.20~ds1", "containerd-1.6"),
        ("1.7.24~ds1", "containerd-1.7"),
        ("2.1.9+unknown", "containerd-2.1"),
        ("v2.4.2", "containerd-2.4"),
    ),
)
def test_a_containerd_on_path_serves_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, line: str
) -> None:
    """A containerd on PATH is taken for the line that it is of, and for no other."""
    write_containerd(tmp_path, version, "ctr", "containerd-shim-runc-v2")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    taken = [tool.name for tool in containerd.LINES if on_path_says(tool) == ""]

    assert taken == [line]


def on_path_says(tool: Tool) -> str:
    """Return why the containerd on PATH is not this tool, or nothing."""
    try:
        containerd.on_path(tool, Path())
    except NotHere as no:
        return str(no)
    return ""


def test_a_containerd_on_path_needs_its_companions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A containerd without ctr beside it is passed over."""
    write_containerd(tmp_path, "1.7.24")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert "has no ctr beside it" in on_path_says(containerd.LINES[1])


def test_only_the_score_of_gvisors_shim_is_changed() -> None:
    """One constant of its source is another, and a source without it is no source for us."""
    changed = containerd.allow_oom_score("a = 1\noomScoreMax = -999\nb = 2\n")

    assert changed == "a = 1\noomScoreMax = 0\nb = 2\n"
    with pytest.raises(NotHere, match="no longer has"):
        containerd.allow_oom_score("oomScoreMax = -998\n")


def test_programs_are_found_in_a_package_wherever_it_installs_them(tmp_path: Path) -> None:
    """A program is taken from bin or sbin; a link to where it would be installed is not it."""
    root = tmp_path / "root"
    for name in ("usr/sbin/runc", "usr/share/runc"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(name)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/runc").symlink_to("/usr/sbin/runc")

    collect(root, ["runc"], tmp_path / "made")

    assert (tmp_path / "made/runc").read_text() == "usr/sbin/runc"
    with pytest.raises(NotHere, match="no program crun"):
        collect(root, ["crun"], tmp_path / "other")


def test_a_program_finds_the_libraries_that_it_brings(tmp_path: Path) -> None:
    """A program with libraries of its own is started by a launcher, under whatever link's name."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "tool").write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH" "$1"\n')
    (tmp_path / "libx.so.1.2").touch()
    (tmp_path / "libx.so.1").symlink_to("libx.so.1.2")

    add_libraries(tmp_path, ["tool"], ["libx.so.1"], made)

    for name in ("tool", "tool.real"):
        (made / name).chmod(0o755)
    (tmp_path / "link").symlink_to(made / "tool")
    assert run([tmp_path / "link", "given"], timeout_s=5).split() == [str(made), "given"]
    assert (made / "libx.so.1").is_file()
    with pytest.raises(NotHere, match=r"no library liby\.so"):
        add_libraries(tmp_path, ["tool"], ["liby.so"], made)


def test_nerdctl_is_taken_where_the_environment_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nerdctl that CRYO_NERDCTL names is used; one that cannot be run is refused by name."""
    path = tmp_path / "nerdctl"
    path.write_text("#!/bin/sh\n")
    monkeypatch.setenv(clients.VARIABLE, str(path))
    with pytest.raises(NotHere, match="is not executable"):
        clients.named(clients.NERDCTL, tmp_path)

    path.chmod(0o755)

    choice = clients.named(clients.NERDCTL, tmp_path)
    assert (choice.path, choice.source) == (str(path), clients.VARIABLE)


@pytest.mark.parametrize(("name", "status"), (("nerdctl", 0), ("crictl", 1)))
def test_an_optional_tool_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    """With --require a tool that cannot be had is a failure, unless it is an optional one."""

    def not_there(tool: Tool, _cache: Path) -> Choice:
        message = f"no {tool.name}"
        raise NotHere(message)

    monkeypatch.setenv("CRYO_CACHE", str(tmp_path))
    monkeypatch.setitem(cli.TOOLS, name, replace(cli.TOOLS[name], sources=(not_there,)))

    assert cli.main(["--require", name]) == status


def test_helpers_of_tests_are_left_out_of_nerdctl() -> None:
    """What is left of the file is a package without imports."""
    assert clients.without_tests('package helpers\n\nimport "testing"\n') == "package helpers\n"


def test_the_programs_of_kubernetes_are_of_one_release() -> None:
    """Their go.mod requires the version of the tool, and replaces modules by those of the same."""
    text = (kubernetes.MODULE.pins / "go.mod").read_text("utf-8")
    release = kubernetes.VERSION.removeprefix("v1.")

    replaced = set(re.findall(r"=> k8s\.io/\S+ (\S+)", text))

    assert f"k8s.io/kubernetes {kubernetes.VERSION}\n" in text
    assert replaced == {f"v0.{release}"}


def test_programs_that_take_long_are_obtained_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without names the command line leaves them out; by name it obtains them."""
    names = ("runc", "kubelet", "kube-apiserver")
    tools = {name: Tool(name, "v1", (name,), (refuse,)) for name in names}
    monkeypatch.setattr(cli, "TOOLS", tools)
    monkeypatch.setenv("CRYO_CACHE", str(tmp_path))

    cli.main([])
    assert {path.stem for path in tmp_path.glob("*.json")} == {"runc", "kubelet"}

    cli.main(["kube-apiserver"])
    assert (tmp_path / "kube-apiserver.json").exists()


@pytest.mark.parametrize(
    ("name", "command"),
    (("runc", "make tools"), ("kube-apiserver", "python -m hack.tools kube-apiserver")),
)
def test_a_missing_tool_names_the_command_that_obtains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    """One that `make tools` leaves out is obtained by name."""
    monkeypatch.setenv("CRYO_CACHE", str(tmp_path))

    with pytest.raises(NotHere, match=f"{name} was not looked for: run `{command}`"):
        find_program(name)
