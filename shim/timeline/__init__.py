"""Where the time of an operation went: its parts, what bounds them, and drawings of both."""
