"""Makes torch unimportable in a courier process; found through PYTHONPATH."""

import sys

if "runback.tracking.courier" in sys.orig_argv:
    sys.modules["torch"] = None
