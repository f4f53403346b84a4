"""The epoch loop and its state; independent of files and of MLflow."""
