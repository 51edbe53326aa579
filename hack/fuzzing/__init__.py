"""What `hack.fuzz` is made of."""
