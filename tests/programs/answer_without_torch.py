"""Runs help and usage errors of the command line; fails if one imports a heavy library.

All run in one process: after an import by one of them the others could not be checked.
"""

import contextlib
import io
import sys

import runback  # noqa: F401
from runback.cli import main

HEAVY = {"torch", "mlflow", "pandas", "numpy", "pyarrow", "sklearn", "matplotlib"}
VALIDATING = {"pydantic", "pydantic_core"}
ILL_TYPED = (
    ["train", "--lr", "abc"], ["train", "--device", "tpu"], ["train", "--data", "missing.csv"],
    ["train", "--data", __file__, "--model", "mpl"], ["train", "--data", "missing.py:Rows"],
    ["train", "--data", __file__, "--model", "missing.py:Net"],
)  # fmt: skip
ANSWERED = (["--help"], ["train", "--help"], ["resume", "--help"], ["--version"])
REFUSED = (
    [], ["bogus"], ["train", "--lrr", "3"], ["train", "-x", "3"], ["train", "one"],
    ["train", "--lr"], ["train", "--config", "missing.toml"], ["train", "--ep", "3"], ["resume"],
    ["predict", "latest"], ["evaluate", "latest", "--dta", "x.csv"],
    ["evaluate", "latest", "--data", "missing.csv"], ["predict", "latest", "--data", "missing.csv"],
    ["promote", "latest", "--data", "missing.csv"], ["evaluate", "abc"], ["resume", "../../etc"],
    ["export", "models:/name", "--format", "onnx", "--output", "x"], ["reproduce", "runs:/"],
    ["show", "abc"], ["show"], ["show", "latest", "--json", "perhaps"],
    ["ui", "abc"], ["compare"], ["compare", "latest"],
    ["compare", "latest", "abc"], ["compare", "latest", "best", "--data", "missing.csv"],
    ["ui", "--port", "abc"], ["runs", "--last", "-1"],
)  # fmt: skip


def run(*argv):
    """Runs one command; returns its exit code, standard output and standard error."""
    with contextlib.redirect_stdout(io.StringIO()) as out:  # noqa: SIM117
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                code = main(list(argv))
            except SystemExit as end:
                code = end.code
    heavy = HEAVY if list(argv) in ILL_TYPED else HEAVY | VALIDATING
    assert not heavy & set(sys.modules), (argv, heavy & set(sys.modules))
    return code, out.getvalue(), err.getvalue()


for argv in ANSWERED:
    code, out, err = run(*argv)
    assert code == 0 and out and not err, (argv, code, err)
for argv in (*REFUSED, *ILL_TYPED):
    code, out, err = run(*argv)
    assert code == 2, (argv, code)
    assert not out and err.startswith("runback: ") and err.count("\n") == 1, (argv, out, err)
