"""A simulated GPU that gVisor treats as a real one; see `shim.simgpu.simulation`."""
