#!/bin/bash
# Runs on a GPU machine: run.sh [--dry-run] REPORT. Needs root, NVIDIA's driver, and pip of the Python
# version that the kit was made for, but no network. Each step writes its output into REPORT; the
# steps after one that fails are run too.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

dry=
[ "${1:-}" != --dry-run ] || { dry=1 && shift; }
report=${1:?run.sh [--dry-run] REPORT}
mkdir -p "$report"
report=$(cd "$report" && pwd)
# Elsewhere, Python might import a checkout instead of the installed packages.
cd "$here"
venv=${CRYO_GPU_VENV:-$here/venv}
failed=0

step() {
	local name=$1 status=0
	shift
	timeout --kill-after=30 "${CRYO_GPU_STEP_S:-900}" "$@" >"$report/$name.out" 2>"$report/$name.err" || status=$?
	printf '%-24s %s\n' "$name" "$status" | tee -a "$report/steps"
	# A size for which the machine has too little memory is left out, with its reason.
	if [ "$status" -eq 77 ] && [[ $name == sizes-* ]]; then return; fi
	[ "$status" -eq 0 ] || failed=1
}

# A step that may use the device: a dry run only prints it. CRYO_GPU_ONLY is a regular expression that
# selects steps by name.
device_step() {
	[[ $1 =~ ${CRYO_GPU_ONLY:-.} ]] || return 0
	if [ -n "$dry" ]; then
		printf '%-24s %s\n' "$1" "not run: ${*:2}" | tee -a "$report/steps"
	else
		step "$@"
	fi
}

selftest() { # name, arguments
	device_step "$1" "$venv/bin/cryo" selftest --gpu real --runsc "$here/runsc/runsc" --json "${@:2}"
}

ours() { # name, module, arguments
	device_step "$1" env PYTHONPATH="$here/source" "$venv/bin/python" -m "$2" \
		--runsc "$here/runsc/runsc" "${@:3}"
}

machine() {
	uname -a
	nproc
	grep -E 'MemTotal|MemAvailable' /proc/meminfo
	df -h "${TMPDIR:-/tmp}"
	for file in /proc/driver/nvidia/version /proc/driver/nvidia/gpus/*/information; do
		if [ -r "$file" ]; then cat "$file"; fi
	done
	command -v cuda-checkpoint || echo "no cuda-checkpoint: only cryo-cuda is used"
}
export -f machine

: >"$report/steps"
step machine bash -c machine
# Without pip: Debian's Python has no ensurepip unless python3-venv is installed.
step venv python3 -m venv --without-pip "$venv"
step install python3 -m pip --python "$venv/bin/python" install --no-index --find-links "$here/wheels" \
	--constraint "$here/wheels/constraints.txt" "cryoshim[selftest]"
step cryo "$venv/bin/cryo" version
step runsc "$here/runsc/runsc" --version
step helper "$venv/bin/python" -c 'from shim.cuda import native; print(native.path() or "none")'
step bench-loads env PYTHONPATH="$here/source" "$venv/bin/python" -m hack.bench --help
for module in hack.gpu.sizes hack.gpu.llm hack.bench.zero_pages; do
	step "$module-loads" env PYTHONPATH="$here/source" "$venv/bin/python" -m "$module" --help
done

# From here on the device is used.
device_step nvidia-smi nvidia-smi -q
for engine in phased builtin; do
	selftest "selftest-$engine" --engine "$engine" --rounds 2 --processes 2 --gpu-mib 256
done
for engine in phased builtin; do
	selftest "pytorch-$engine" --pytorch --engine "$engine" --processes 1 --gpu-mib 1024
done
selftest pytorch-4 --pytorch --engine phased --processes 4 --gpu-mib 1024
for processes in 1 4 8; do
	selftest "processes-$processes" --engine phased --processes "$processes" --gpu-mib 64
done
for mib in 1024 8192 32768; do
	selftest "size-$mib" --engine phased --processes 1 --gpu-mib "$mib"
done
selftest size-8192-builtin --engine builtin --processes 1 --gpu-mib 8192
if command -v cuda-checkpoint >/dev/null; then
	for engine in phased builtin; do
		selftest "nvidia-$engine" --helper never --engine "$engine" --processes 2 --gpu-mib 256
	done
	selftest nvidia-size-8192 --helper never --engine phased --processes 1 --gpu-mib 8192
fi
# Every way to checkpoint, park and restore, by size: engines, stages, direct, cold and warm page cache.
for pages in on off; do
	for mib in 1024 4096 8192 16384 32768 65536; do
		ours "sizes-$mib-huge-$pages" hack.gpu.sizes --mib "$mib" --huge-pages "$pages"
	done
done
# Plain runsc, which needs NVIDIA's tool: whether zero pages that the driver has filled are left out.
if command -v cuda-checkpoint >/dev/null; then
	ours zero-pages hack.bench.zero_pages --real --mib 8192
fi
# A language model server that is checkpointed while it answers; needs PyTorch.
for gib in 0 8 24; do
	for engine in phased builtin; do
		ours "llm-$gib-$engine" hack.gpu.llm --gib "$gib" --engine "$engine"
	done
done
# Without a sandbox: the time of the driver alone.
device_step driver-alone env PYTHONPATH="$here/source" "$venv/bin/python" -m hack.gpu.alone 1024 8192
# Failures that are caused on purpose.
device_step trials env PYTHONPATH="$here/source" "$venv/bin/python" -m hack.gpu.trials \
	--runsc "$here/runsc/runsc" --gpu-mib 1024
# With ctr's own commands.
if [ -d "$here/containerd" ]; then
	device_step containerd env PYTHONPATH="$here/source" "$venv/bin/python" -m hack.gpu.containerd \
		--runsc "$here/runsc/runsc" --containerd "$here/containerd" \
		--busybox "$here/containerd/busybox"
fi
# The benchmark uses a simulated GPU, and shows how this machine compares with the figures in docs/performance.md.
# It needs root for a private /dev.
device_step bench env PYTHONPATH="$here/source" "$venv/bin/python" -m hack.bench \
	--runsc "$here/runsc/runsc" --output "$report/bench.json" checkpoint restore processes clones

tar -C "$(dirname "$report")" -czf "$report.tar.gz" "$(basename "$report")"
echo "$report.tar.gz"
exit "$failed"
