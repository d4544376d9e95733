"""`python -m punchlab.punch`: the same as the command `punch`."""

from __future__ import annotations

import sys

from punchlab.punch.cli import main

if __name__ == "__main__":
    sys.exit(main())
