"""Run as `python -m shim.selftest`."""

from shim.selftest.command import command

if __name__ == "__main__":
    command()
