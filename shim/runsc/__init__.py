"""runsc: command lines, running them, feature detection, and a client with a method per command."""
