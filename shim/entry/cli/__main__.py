"""Run as `python -m shim.entry.cli`, where the script is not installed."""

from shim.entry.cli import main

main()
