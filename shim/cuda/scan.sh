# Finds who holds nvidia devices, with shell builtins alone (grep is used where there is one).
# F pid device: an open file; M pid: a mapping; C pid: a thread named as the driver names its own;
# N pid name; T remote state: a TCP connection, as in /proc/net/tcp; E: the scan reached its end.
x='[0-9a-f]'
set --
for d in /dev/nvidia* /dev/nvidia-caps/*; do
  if [ -c "$d" ]; then set -- "$@" "$d"; fi
done
for p in /proc/[0-9]*; do
  pid=${p#/proc/}
  if [ "$pid" = "$$" ]; then continue; fi
  held=
  for f in "$p"/fd/*; do
    for d in "$@"; do
      if [ "$f" -ef "$d" ]; then echo "F $pid $d"; held=1; fi
    done
  done
  if [ -z "$held" ]; then
    if command -v grep >/dev/null 2>&1; then
      if grep -q /dev/nvidia "$p/maps" 2>/dev/null; then echo "M $pid"; held=1; fi
    else
      while read -r _ _ _ _ _ path; do
        case $path in /dev/nvidia*) echo "M $pid"; held=1; break ;; esac
      done 2>/dev/null <"$p/maps"
    fi
  fi
  for c in "$p"/task/*/comm; do
    if read -r name 2>/dev/null <"$c"; then
      case $name in cuda$x$x$x$x$x$x$x$x$x$x$x) echo "C $pid"; break ;; esac
    fi
  done
  if read -r name 2>/dev/null <"$p/comm"; then
    # Some shells' echo obeys backslashes: a process called \c would hide the line that follows.
    case $name in *\\*) name="${name%%\\*}?" ;; esac
    echo "N $pid $name"
  fi
done
for t in /proc/net/tcp /proc/net/tcp6; do
  if [ -r "$t" ]; then
    while read -r _ _ remote state _; do echo "T $remote $state"; done <"$t"
  fi
done
echo E
