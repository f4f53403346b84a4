"""Stands for a training process, without torch: opens a run, records points, posts checkpoints.

Arguments: the number of points, the pause after each in seconds, and how the process ends: a final
status; "before" (waits before the first point); "wait" (waits for a line, then FINISHED);
"unwritten" (the status reaches the courier only); "die" (SIGKILL). Prints the run ID and the
process ID of the courier, then "trained".
"""

import os
import sys
import time

from runback.storage.journal import Journal
from runback.storage.lock import FileLock
from runback.storage.paths import pending_run_dir, run_dir
from runback.tracking.client import CourierClient
from runback.tracking.messages import CreateRun, RunDescription, TakeOverRun

points, pause, end = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
description = RunDescription(params={"lr": "0.1"}, tags={}, facts={"config": {"lr": "0.1"}})
with CourierClient() as courier:
    run_id = os.environ.get("MLFLOW_RUN_ID", "")
    if run_id:
        courier.ask(TakeOverRun(run_id, description))
    else:
        pending = pending_run_dir()
        Journal(pending.journal).close()
        run_id = courier.ask(CreateRun(pending.mark, description))
    folder = run_dir(run_id)
    print(run_id, courier._courier.pid, flush=True)
    if end == "before":
        time.sleep(60)
    with FileLock(folder.lock).acquire("it"):
        journal = Journal(folder.journal, tidy=False)
        courier.attach(run_id)
        folder.checkpoints.mkdir()
        for step in range(1, points + 1):
            journal.reach(step)
            journal.record([("cost", 1.0 / step), ("val_cost", step / 3)], step)
            if journal.flush_if_due():
                courier.restart_if_dead()
            if step % max(1, points // 4) == 0:
                file = folder.checkpoints / f"checkpoint-{step:06d}.pt"
                file.write_bytes(os.urandom(1000))
                journal.post_file(folder.path, file, "checkpoints")
            time.sleep(pause)
        journal.flush()
        print("trained", flush=True)
        if end == "wait":
            sys.stdin.readline()
            end = "FINISHED"
        if end == "unwritten":  # as on a full disk
            sys.exit(0 if courier.finish(run_id, "FAILED", "no space", lambda: False) else 75)
        if end == "die":
            os.kill(os.getpid(), 9)
        journal.set_facts({"ended_ms": time.time_ns() // 1_000_000, "status": [end, ""]})
        journal.close()
        sys.exit(0 if courier.finish(run_id, end, "", lambda: False) else 75)
