"""The operating system: one concern per file."""
