"""A stand-in for runsc in the warm-up: a shell script whose container is a process that sleeps."""

from __future__ import annotations

from pathlib import Path

from shim.runsc import known
from shim.runsc.probe import Capabilities, find_binary, identity
from shim.task.layout import Layout

# It keeps what the shim reads: the pid file, and a state file with the name that runsc gives it.
# Its process ends by itself, should the fork server be killed during the warm-up.
_SCRIPT = """\
#!/bin/sh
for word; do
  case $word in
  --root=*) root=${word#*=} ;;
  --pid-file=*) pid_file=${word#*=} ;;
  --internal-pid-file=*) guest_pid=${word#*=} ;;
  create | start | exec | kill | delete) action=${action:-$word} ;;
  *+) name=$word ;;
  esac
done
state=$root/${name}_sandbox:$name.state
case $action in
create)
  mkdir -p "$root"
  sleep 10 &
  echo $! >"$pid_file"
  echo $! >"$root/pid"
  echo '{}' >"$state"
  ;;
exec) echo 7 >"$guest_pid" ;;
kill)
  read -r pid <"$root/pid"
  kill -9 "$pid"
  ;;
delete) rm -f "$state" ;;
esac
"""


def write(folder: Path, state: Path) -> Path:
    """Write the script, and what a probe of it would find into an owner's state directory."""
    script = folder / "runsc"
    script.write_text(_SCRIPT, "ascii")
    script.chmod(0o700)
    binary, nothing = find_binary(str(script)), frozenset[str]()
    found = Capabilities(
        binary=binary,
        identity=identity(binary),
        version="warmup",
        checkpoint_flags=nothing,
        restore_flags=nothing,
        wait_flags=nothing,
        top_flags=nothing,
        commands=nothing,
    )
    known.keep(Layout(state).known_runsc, found, {})
    return script
