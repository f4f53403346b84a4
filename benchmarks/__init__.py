"""Measurements of runback beside its peers. `python -m benchmarks` runs all of them."""
