"""Compares Cryoshim with what it is built on and with what it replaces: `make bench`."""
