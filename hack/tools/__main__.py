"""Run as `python3 -m hack.tools`."""

import sys

from hack.tools.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
