"""Tables as tensors: reading, validation, splitting, batching."""
