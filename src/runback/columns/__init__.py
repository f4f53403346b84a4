"""Encoding of columns as numbers: one module for each kind of column, and `tensors`."""
