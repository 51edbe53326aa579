#!/bin/bash
# Create a virtual environment in a directory: hack/venv.sh .venv
set -euo pipefail

venv=${1:?usage: hack/venv.sh DIRECTORY}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
	local name
	for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.14 /usr/bin/python3; do
		if new_enough "$name"; then
			command -v "$name"
			return
		fi
	done
	echo "make: no Python 3.11 or newer on PATH; on Debian and Ubuntu: apt-get install python3 python3-venv" >&2
	return 1
}

# A venv whose interpreter was removed, or that is incomplete, is created again.
if ! new_enough "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
	python=$(find_python)
	if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
		version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
		echo "make: $python cannot make a venv; on Debian and Ubuntu: apt-get install python$version-venv" >&2
		exit 1
	fi
	echo "make: creating a venv in $venv with $python" >&2
	rm -rf "$venv"
	"$python" -m venv "$venv"
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet --no-input)
"${pip[@]}" install --require-hashes --requirement requirements.lock
# All dependencies, including the build backend, are installed: nothing more is downloaded.
"${pip[@]}" install --no-deps --no-build-isolation --editable . --editable packaging/selftest
