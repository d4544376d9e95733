"""`python -m punchlab.lab.cli` is `punchlab`."""

import sys

from punchlab.lab.cli import main

sys.exit(main())
