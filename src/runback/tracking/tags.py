"""The tags that runback sets on runs, logged models and registered models. Imports no mlflow.

A finished run has two: the version, and `runback.run` with everything else that is only read with the
run (`run_tag`). A tag of its own has what is searched for, what concerns people, and what another
process writes than the one that holds the run: a tag is replaced as a whole, and two processes that
read, change and write one would lose each other's entries.
"""

from __future__ import annotations

from typing import Final

# On a run: searched for
VERSION: Final = "runback.version"  # set last: the run is described completely
KEY: Final = "runback.key"
FORK_OF: Final = "runback.fork_of"
REPRODUCTION_OF: Final = "runback.reproduction_of"
# On a run: a JSON object, written by the process that holds the run when it begins or resumes
RUN: Final = "runback.run"
# On a run: renewed by its courier during the training
LEASE: Final = "runback.lease"
# On a run: what was unusual, sent from its journal, also long after its training
ERROR: Final = "runback.error"
MISMATCH: Final = "runback.mismatch"
NON_FINITE: Final = "runback.non_finite"
# On a run that `mlflow run -e COMMAND` has made
LAUNCH: Final = "runback.launch"
# On a run, of MLflow's
RUN_NAME: Final = "mlflow.runName"
ENTRY_POINT: Final = "mlflow.project.entryPoint"  # the command of `mlflow run -e`
NOTE: Final = "mlflow.note.content"
# On an experiment, of MLflow's: a saved view, whose ID is that of `links.VIEW`
VIEW: Final = "mlflow.sharedViewState.runback"
# On a logged model and its registered version
MARK: Final = "runback.creation"
MODEL_SHA256: Final = "runback.model_sha256"
EPOCH: Final = "runback.epoch"
CHOSEN: Final = "runback.chosen"
DATA_FINGERPRINT: Final = "runback.data_fingerprint"
SPLIT_SHA256: Final = "runback.split_sha256"
CONFIG_SHA256: Final = "runback.config_sha256"
# On a registered model
PROMOTIONS: Final = "runback.promotions."  # + the name of an alias
