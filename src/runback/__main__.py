"""`python -m runback`."""

import sys

from runback.cli import main

sys.exit(main())
