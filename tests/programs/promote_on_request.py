"""Promotes the version of its argument to each alias read from standard input; prints JSON.

An empty line promotes nothing and prints {}.
"""

import json
import sys

from runback.commands.promote import promote

for alias in sys.stdin:
    found = promote(sys.argv[1], alias.strip()).as_json() if alias.strip() else {}
    print(json.dumps(found), flush=True)
