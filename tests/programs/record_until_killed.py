"""Records points in the journal of its argument until killed; prints each step that was flushed."""

import pathlib
import sys

from runback.storage.journal import Journal

journal = Journal(pathlib.Path(sys.argv[1]), tidy=False)
for step in range(1, 1_000_001):
    journal.record([("cost", step / 3)], step)
    if journal.flush_if_due():
        print(step, flush=True)
