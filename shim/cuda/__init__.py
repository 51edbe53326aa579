"""CUDA processes: detection, their states and moves, the two engines, drivers, CDI."""
