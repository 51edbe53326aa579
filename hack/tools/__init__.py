"""Obtain what the demo, the real tests and the benchmarks run against: see `hack.tools.cli`."""
