"""The parts of `hack.soak`."""
