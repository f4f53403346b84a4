"""The tags that runback sets on runs, logged models and registered models. Imports no mlflow."""

from __future__ import annotations

from typing import Final

# On a run: its configuration
CONFIG: Final = "runback.config"
CHANGED: Final = "runback.changed."  # + the name of an option changed by a resume
VERSION: Final = "runback.version"
PYTHON: Final = "runback.python"
DATA_PATH: Final = "runback.data_path"
DATA_FINGERPRINT: Final = "runback.data_fingerprint"
# On a run, of MLflow's
RUN_NAME: Final = "mlflow.runName"
ENTRY_POINT: Final = "mlflow.project.entryPoint"  # the command of `mlflow run -e`
NOTE: Final = "mlflow.note.content"
# On an experiment, of MLflow's: a saved view, whose ID is that of `links.VIEW`
VIEW: Final = "mlflow.sharedViewState.runback"
# On a run: its processes and events
KEY: Final = "runback.key"
NOTE_SHA256: Final = "runback.note_sha256"  # of the description or note that runback wrote last
RESUMED: Final = "runback.resumed"  # the completed epochs at which it was resumed
MARK: Final = "runback.creation"
LEASE: Final = "runback.lease"
JOURNAL: Final = "runback.journal"
LAUNCH: Final = "runback.launch"
ERROR: Final = "runback.error"
MISMATCH: Final = "runback.mismatch"
NON_FINITE: Final = "runback.non_finite"
REPRODUCTION_OF: Final = "runback.reproduction_of"
# On a fork: the run that it was forked from, the epoch, and what it has taken over and changed
FORK_OF: Final = "runback.fork_of"
FORK_EPOCH: Final = "runback.fork_epoch"
FORK_KEPT: Final = "runback.fork_kept"
FORK_CHANGED: Final = "runback.fork_changed"
# On a logged model and its registered version
MODEL_SHA256: Final = "runback.model_sha256"
EPOCH: Final = "runback.epoch"
CHOSEN: Final = "runback.chosen"
SPLIT_SHA256: Final = "runback.split_sha256"
CONFIG_SHA256: Final = "runback.config_sha256"
# On a registered model
PROMOTIONS: Final = "runback.promotions."  # + the name of an alias
