"""The only place that imports mlflow: runs, the courier (journal -> MLflow), the registry.

`desk` is the exception that makes the rule useful: the training process talks through it to the
courier, a process of its own, and never imports mlflow itself.
"""

# What mlflow is told in processes that are ours alone: quiet, and quick to say no, since retrying
# is the courier's own work. Users' settings win.
QUIET = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
