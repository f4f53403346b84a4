"""Every error that a user can meet, in one small tree.

    RunbackError              exit code 1
    ├── UsageError            exit code 2: the input or the usage is wrong
    │   ├── ConfigError       an option: unknown, ill-typed, out of range, contradictory
    │   ├── DataError         a table: a file, column or row that cannot be used
    │   ├── ModelError        a module: unknown name, wrong arguments, shapes that do not fit
    │   └── RunNotFoundError  RUN names no run, or more than one
    ├── TrackingError         the tracking server cannot be reached or refuses
    ├── CheckpointError       a checkpoint that cannot be written or read
    ├── JournalError          the journal cannot be opened or written
    ├── StorageError          another local file cannot be written: the disk is full
    ├── MemoryShortError      the device has no memory left for the model, the table or a batch
    ├── DivergedError         the cost or the weights are no longer finite
    └── RunHeldError          exit code 3: another process holds the run

Each message is one sentence that says what is wrong, where, and what would be right.
"""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_HELD = 3
EXIT_UNDELIVERED = 75


class RunbackError(Exception):
    """Base of all errors that runback raises on purpose."""

    exit_code = EXIT_FAILED


class UsageError(RunbackError):
    """The input or the usage is wrong; nothing has been changed."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """An option is unknown, ill-typed, out of range, or contradicts another."""


class DataError(UsageError):
    """A table cannot be used: the file, a column, or a row is wrong."""


class ModelError(UsageError):
    """A module cannot be built, or does not fit the data or its weights."""


class RunNotFoundError(UsageError):
    """RUN names no run, or more than one."""


class TrackingError(RunbackError):
    """The tracking server cannot be reached, or refuses what it is asked."""


class CheckpointError(RunbackError):
    """A checkpoint cannot be written, or cannot be read back whole."""


class JournalError(RunbackError):
    """The run's journal cannot be opened, read or written."""


class StorageError(RunbackError):
    """A local file that is neither checkpoint nor journal cannot be written: the disk is full."""


class MemoryShortError(RunbackError):
    """The device has no memory left for the model, the table or a batch."""


class DivergedError(RunbackError):
    """The cost or the weights are no longer finite."""


class RunHeldError(RunbackError):
    """Another process holds the run."""

    exit_code = EXIT_HELD


class Interrupted(RunbackError):  # noqa: N818 - an interruption is not an error of the user's
    """Training was stopped by a signal, has been checkpointed, and can be resumed.

    Args:
        run_id: the run that can be resumed; empty where no training has begun.
        signal_number: the signal; the exit code is 128 + signal_number.
    """

    def __init__(self, run_id: str, signal_number: int) -> None:
        hint = f"interrupted; go on with: runback resume {run_id}"
        super().__init__(hint if run_id else "interrupted before the training began")
        self.run_id = run_id
        self.exit_code = 128 + signal_number


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type's name where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
