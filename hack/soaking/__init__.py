"""What `hack.soak` is made of."""
