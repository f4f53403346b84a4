"""Predicts with the code in a folder only; prints the predictions and what was imported, as JSON.

Arguments: the folder with the package, the model folder, and the rows as JSON.
"""

import json
import sys

import pandas as pd

code, model, frame = sys.argv[1:]
sys.path.insert(0, code)
from runback.model.serving import _load_pyfunc  # noqa: E402

found = _load_pyfunc(model).predict(pd.DataFrame(json.loads(frame))).tolist()
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("runback", "mlflow"))
print(json.dumps({"found": found, "modules": ours, "file": sys.modules["runback"].__file__}))
