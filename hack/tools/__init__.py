"""Obtain the programs that the demo, the real tests and the benchmarks need: `hack.tools.cli`."""
