"""Runs every benchmark of this folder, or those that are named: `python -m benchmarks startup`.

Each one prints its section and puts it in RESULTS.md when it is done, so that one that fails loses
nothing of the others; those that failed are named at the end, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.common import HERE, QUICK_NOTE, ROOT

# Parts of benchmarks, and `crashes`, which takes an hour.
NOT_BENCHMARKS = {
    "__init__", "__main__", "common", "crashed_lightning", "crashed_loop", "crashed_transformers",
    "crashes", "peers", "versions",
}  # fmt: skip


def main() -> int:
    """Runs each benchmark in a separate process, isolated from the imports of the others."""
    options = arguments(sorted({file.stem for file in HERE.glob("*.py")} - NOT_BENCHMARKS))
    failed = [name for name in options.names if not run(name, options.quick)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def arguments(known: list[str]) -> argparse.Namespace:
    """The names, all where none is given, and `quick`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help=QUICK_NOTE[:-1])
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    options.names = options.names or known
    return options


def run(name: str, quick: bool) -> bool:
    """Runs one benchmark; returns whether it succeeded."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT)
    end = f"exit code {done.returncode}" if done.returncode else "done"
    print(f"\n{name}: {end}, {time.perf_counter() - begin:.0f} s\n", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
