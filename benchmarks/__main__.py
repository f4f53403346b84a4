"""Runs every benchmark of this folder, or those that are named: `python -m benchmarks startup`."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.common import HERE, RESULTS, publish

NOT_BENCHMARKS = {"__init__", "__main__", "common", "peers"}


def main() -> int:
    """Each benchmark runs in a process of its own, so that none sees what another imported."""
    known = sorted(file.stem for file in HERE.glob("*.py") if file.stem not in NOT_BENCHMARKS)
    failed = []
    for name in sys.argv[1:] or known:
        begin = time.perf_counter()
        if not run(name):
            failed.append(name)
        print(f"{name}: {time.perf_counter() - begin:.0f} s\n", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str) -> bool:
    """One benchmark; what it only prints gets its section in RESULTS.md here."""
    before = RESULTS.read_bytes() if RESULTS.exists() else b""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return False
    if RESULTS.exists() and RESULTS.read_bytes() != before:
        print(done.stdout, flush=True)
    else:
        title = name.replace("_", " ").capitalize()
        publish(name, title, ["```text", done.stdout.rstrip(), "```"])
    return True


if __name__ == "__main__":
    sys.exit(main())
