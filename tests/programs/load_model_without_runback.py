"""Loads a model URI with pyfunc where runback is not installed; prints its predictions.

Arguments: the model URI and the rows, as a JSON object of columns.
"""

import importlib.util
import json
import sys

import mlflow
import pandas as pd

assert importlib.util.find_spec("runback") is None
model = mlflow.pyfunc.load_model(sys.argv[1])

import runback  # noqa: E402

assert "/code/runback/" in runback.__file__, runback.__file__
print(model.predict(pd.DataFrame(json.loads(sys.argv[2]))).tolist())
