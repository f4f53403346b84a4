"""Tracking with MLflow: runs, the courier (journal -> MLflow), the registry.

Only this package imports mlflow. The training process does not: it uses `client`, which sends
messages to the courier, a separate process.
"""

# MLflow settings in runback's processes: no log output, and no retries, as the courier retries
# itself. Values set by users take precedence.
QUIET = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
