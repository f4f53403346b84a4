"""Atomic files, checkpoints, the journal, the lock; knows nothing of MLflow."""
