"""`cryo doctor`: what decides whether a checkpoint works on this host, without a sidecar."""
