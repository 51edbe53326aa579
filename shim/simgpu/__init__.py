"""A simulated GPU that gVisor itself takes for a real one; see `shim.simgpu.simulation`."""
