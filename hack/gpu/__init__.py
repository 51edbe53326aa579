"""Tests and benchmarks for a GPU machine without network; see `hack.gpu.__main__`."""
