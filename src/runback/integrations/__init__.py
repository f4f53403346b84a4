"""Runs of frameworks' own training loops: Lightning's Trainer and that of transformers."""
