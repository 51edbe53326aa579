#!/bin/bash
# Update requirements.lock: names, versions and hashes, for every platform.
set -euo pipefail

command -v uv >/dev/null || { echo "make lock: uv is not on PATH: install uv" >&2; exit 1; }

fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
cat >"$fresh" <<'HEAD'
# Every package that `make` installs into .venv, pinned with the hashes of all its files.
# Written by `make lock`; not edited by hand.
HEAD
uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra docs --extra tracing --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade \
	pyproject.toml >>"$fresh"
cp "$fresh" requirements.lock
