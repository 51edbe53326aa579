"""runsc: command lines, the spawner, feature detection, and a client with a method per command."""
