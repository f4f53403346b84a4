"""The errors that runback raises.

    RunbackError              exit code 1
    ├── UsageError            exit code 2: the input or the usage is wrong
    │   ├── ConfigError       an option: unknown, ill-typed, out of range, contradictory
    │   ├── DataError         a table: a file, column or row that cannot be used
    │   ├── ModelError        a module: unknown name, wrong arguments, shapes that do not fit
    │   ├── RunNotFoundError  RUN matches no run, or more than one
    │   └── TrustError        stored code that is neither known on this machine nor trusted
    ├── TrackingError         the tracking server is unreachable or rejects a request
    ├── CheckpointError       a checkpoint or a model cannot be written or read, or is damaged
    ├── JournalError          the journal cannot be opened or written
    ├── StorageError          another local file cannot be written: the disk is full
    ├── MemoryShortError      the device is out of memory
    ├── DivergedError         a cost or the weights are not finite
    ├── RebuildError          the model rebuilt from its files is not the trained module
    └── RunHeldError          exit code 3: another process holds the run

Each message is one sentence: what is wrong, where, and what would be right.
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
    """The input or the usage is wrong; nothing was changed."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """An option is unknown, ill-typed, out of range, or contradicts another."""


class DataError(UsageError):
    """A table cannot be used: the file, a column, or a row is wrong."""


class ModelError(UsageError):
    """A module cannot be built, or does not fit the data or its weights."""


class RunNotFoundError(UsageError):
    """RUN matches no run, or more than one."""


class TrustError(UsageError):
    """The code of a run is neither known on this machine nor trusted in this call."""


class TrackingError(RunbackError):
    """The tracking server is unreachable, or rejects a request."""


class CheckpointError(RunbackError):
    """A checkpoint or a model cannot be written or read, or is damaged."""


class JournalError(RunbackError):
    """The run's journal cannot be opened, read or written."""


class StorageError(RunbackError):
    """A local file other than a checkpoint or the journal cannot be written: the disk is full."""


class MemoryShortError(RunbackError):
    """The device is out of memory for the model, the table or a batch."""


class DivergedError(RunbackError):
    """A cost or the weights are not finite."""


class RebuildError(RunbackError):
    """The model rebuilt from its files is not the trained module; nothing was registered."""


class RunHeldError(RunbackError):
    """Another process holds the run."""

    exit_code = EXIT_HELD


class Interrupted(RunbackError):  # noqa: N818 - an interruption is not a user error
    """A signal stopped the training; a checkpoint was saved, and the run can be resumed.

    Args:
        run_id: the run to resume; empty if the training had not begun.
        signal_number: the signal; the exit code is 128 + signal_number.
    """

    def __init__(self, run_id: str, signal_number: int) -> None:
        hint = f"interrupted; continue with: runback resume {run_id}"
        super().__init__(hint if run_id else "interrupted before the training began")
        self.run_id = run_id
        self.exit_code = 128 + signal_number


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name if the message is empty.

    Exits such as `SystemExit` are named, because their message is a number or nothing.
    """
    name = type(error).__name__
    line = (str(error).strip().splitlines() or [name])[0]
    return line if isinstance(error, Exception) or line == name else f"{name}: {line}"
