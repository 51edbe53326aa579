"""Make `python -m shim.entry.cli` work where the script is not installed."""

from shim.entry.cli.app import main

main()
