"""Predicts several tables with the code in a folder only.

Arguments: the folder with the package, and a JSON list of [model folder, Parquet file, output file].
"""

import json
import sys

import pandas as pd

sys.path.insert(0, sys.argv[1])
from runback.model.serving import _load_pyfunc

for model, rows, output in json.loads(sys.argv[2]):
    pd.DataFrame({"y": _load_pyfunc(model).predict(pd.read_parquet(rows))}).to_parquet(output)
print(sys.modules["runback"].__file__)
