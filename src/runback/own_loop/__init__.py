"""A run for a training loop of the user's own; `runback.run` is its only entry."""
