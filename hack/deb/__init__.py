"""Builds the Debian package: `python3 -m hack.deb`."""
