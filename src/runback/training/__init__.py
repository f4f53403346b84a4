"""The epoch loop and its state; knows nothing of files or of MLflow."""
