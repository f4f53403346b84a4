"""The only place that imports mlflow: runs, the courier (journal -> MLflow), the registry.

`desk` is the exception that makes the rule useful: the training process talks through it to the
courier, a process of its own, and never imports mlflow itself.
"""
