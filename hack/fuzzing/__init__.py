"""The parts of `hack.fuzz`."""
