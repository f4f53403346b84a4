"""Tables in, tensors out: reading and checking, splitting, batching."""
