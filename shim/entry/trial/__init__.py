"""What `cryo selftest` is made of: the trial itself, and the ways to tell of it."""
