"""`python -m lab.cli` is `punchlab`."""

import sys

from lab.cli import main

sys.exit(main())
